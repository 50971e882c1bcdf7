//! Asks a real S3 server whether it and `replica-s3` keep the contract together.
//!
//! ```text
//! cargo run -p replica-s3 --example s3_real -- ENDPOINT BUCKET ACCESS_KEY SECRET_KEY [FILTER]
//! ```
//!
//! The exit status is 0 where all promises are kept.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use conformance::Options;
use replica_core::Error;
use replica_s3::{Credentials, S3Client, S3Config};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [endpoint, bucket, access_key, secret_key, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: s3_real ENDPOINT BUCKET ACCESS_KEY SECRET_KEY [FILTER]");
        return ExitCode::from(2);
    };
    let config = S3Config::new(bucket)
        .endpoint(endpoint)
        .allow_http(true)
        .credentials(Credentials::new(access_key, secret_key));
    let open = move |namespace: String| {
        let config = config.clone().prefix(&namespace);
        async move { S3Client::new(config) as Result<_, Error> }
    };
    let options = Options {
        filter: rest.first().cloned().unwrap_or_default(),
        secrets: vec![secret_key.clone()],
        scheme: Some("s3".to_owned()),
        slow: true,
        ..Options::default()
    };
    let report = conformance::run_with(&options, open, |_| {}).await;
    println!("{report}");
    ExitCode::from(report.exit_status())
}
