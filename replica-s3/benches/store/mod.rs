//! The store that a benchmark measures, and the sizes, as its command line names them.

use replica_s3::{Credentials, S3Config};

pub(crate) struct Store {
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    numbers: Vec<String>,
}

impl Store {
    /// The store of `ENDPOINT BUCKET ACCESS_KEY SECRET_KEY [NUMBER…]`, or `None`, which is told:
    /// `cargo test --benches` gives no server to measure.
    pub(crate) fn of_arguments(numbers: &str) -> Option<Store> {
        let mut arguments = std::env::args().skip(1).filter(|arg| arg != "--bench");
        let mut next = || arguments.next();
        let (Some(endpoint), Some(bucket), Some(access_key), Some(secret_key)) =
            (next(), next(), next(), next())
        else {
            println!("nothing measured: name ENDPOINT BUCKET ACCESS_KEY SECRET_KEY {numbers}");
            return None;
        };
        Some(Store {
            endpoint,
            bucket,
            access_key,
            secret_key,
            numbers: arguments.collect(),
        })
    }

    /// The number at `index` behind the store, or `otherwise`.
    pub(crate) fn number(&self, index: usize, otherwise: usize) -> usize {
        let number = self.numbers.get(index).and_then(|text| text.parse().ok());
        number.unwrap_or(otherwise)
    }

    /// A replica at `prefix` in it.
    pub(crate) fn config(&self, prefix: &str) -> S3Config {
        S3Config::new(&self.bucket)
            .prefix(prefix)
            .endpoint(&self.endpoint)
            .allow_http(true)
            .credentials(Credentials::new(&self.access_key, &self.secret_key))
    }
}
