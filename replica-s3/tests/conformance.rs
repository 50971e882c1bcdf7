//! The contract, asked of a server in memory, and through what may stand between.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use replica_core::Error;
use replica_layers::{Backoff, Retry, Verify};
use replica_s3::{Credentials, S3Client, S3Config};
use testbed::{Proxy, S3Server};

static SERVER: LazyLock<S3Server> = LazyLock::new(S3Server::start);

fn client(endpoint: &str, namespace: &str) -> Result<S3Client, Error> {
    S3Client::new(
        S3Config::new(SERVER.bucket())
            .endpoint(endpoint)
            .allow_http(true)
            .credentials(Credentials::new(SERVER.access_key(), SERVER.secret_key()))
            .prefix(namespace),
    )
}

/// What no error and no `Debug` may tell (K22).
fn secrets() -> Vec<String> {
    vec![SERVER.secret_key().to_owned()]
}

mod plain {
    use super::*;

    async fn open(namespace: String) -> Result<S3Client, Error> {
        client(&SERVER.endpoint(), &format!("plain/{namespace}"))
    }

    conformance::conformance!(open, slow, secrets = secrets());
}

mod through_layers_and_a_proxy {
    use super::*;

    static PROXY: LazyLock<Proxy> = LazyLock::new(|| Proxy::start(SERVER.address()));

    type Stack = Arc<Verify<Retry<S3Client>>>;

    /// Writers of one name have to go through one `Verify`.
    static STACKS: Mutex<BTreeMap<String, Stack>> = Mutex::new(BTreeMap::new());

    async fn open(namespace: String) -> Result<Stack, Error> {
        let endpoint = format!("http://{}", PROXY.address());
        let client = client(&endpoint, &format!("layers/{namespace}"))?;
        let stack = || Arc::new(Verify::new(Retry::new(client, Backoff::default())));
        let mut stacks = STACKS.lock().expect("nobody panics with it");
        Ok(Arc::clone(stacks.entry(namespace).or_insert_with(stack)))
    }

    conformance::conformance!(open, secrets = secrets());
}
