//! Asks whether a real S3 server, killed in the middle of each operation, leaves anything half
//! done behind, and whether `replica-s3` goes on when it is back.
//!
//! ```text
//! cargo run -p replica-s3 --example s3_outage -- ADDRESS BUCKET ACCESS_KEY SECRET_KEY
//! ```
//!
//! Whoever runs this owns the server at ADDRESS (such as `127.0.0.1:8333`). A line on the standard
//! output asks for something, and a line on the standard input says that it is done: `kill` ends
//! the server at once, `start` starts it again, and `uploads` is answered with the number of
//! uploads that are open. The exit status is 0 where all promises are kept.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod scenario;

use std::io::BufRead;
use std::process::ExitCode;

use replica_core::async_trait;
use replica_s3::{Credentials, S3Client, S3Config};
use testbed::Proxy;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, bucket, access_key, secret_key] = arguments.as_slice() else {
        eprintln!("usage: s3_outage ADDRESS BUCKET ACCESS_KEY SECRET_KEY");
        return ExitCode::from(2);
    };
    let Ok(upstream) = address.parse() else {
        eprintln!("{address} is no address: it is like 127.0.0.1:8333");
        return ExitCode::from(2);
    };
    let proxy = Proxy::start(upstream);
    let config = S3Config::new(bucket)
        .prefix("s3-outage")
        .endpoint(&format!("http://{}", proxy.address()))
        .allow_http(true)
        .credentials(Credentials::new(access_key, secret_key))
        .part_size(scenario::PART_SIZE);
    let client = S3Client::new(config).expect("a client");

    scenario::run(&client, &proxy, &mut Owner).await;

    eprintln!(
        "every operation was interrupted: no file was half there, and of uploads only such stayed \
         open, until all was deleted, whose name had been lost with an answer"
    );
    ExitCode::SUCCESS
}

/// Whoever runs this program.
struct Owner;

impl Owner {
    /// Asks for something, and gives the answer.
    async fn ask(&self, what: &'static str) -> String {
        let answer = tokio::task::spawn_blocking(move || {
            println!("{what}");
            std::io::stdin().lock().lines().next()
        });
        let answer = answer.await.expect("reading a line does not panic");
        let answer = answer.expect("whoever runs this answers");
        answer.expect("the answer is text").trim().to_owned()
    }
}

#[async_trait]
impl scenario::Server for Owner {
    async fn kill(&mut self) {
        self.ask("kill").await;
    }

    async fn start(&mut self) {
        self.ask("start").await;
    }

    async fn open_uploads(&mut self) -> usize {
        let answer = self.ask("uploads").await;
        answer.parse().expect("a number of uploads")
    }
}
