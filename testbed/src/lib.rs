//! Servers and a network that misbehave on demand, in the process of a test.
//!
//! | | what it is | how it misbehaves |
//! | --- | --- | --- |
//! | [`Proxy`] | a TCP proxy | slow, stalled, cut, deaf: see [`Fault`] |
//! | [`http::Scripted`] | an HTTP/1.1 server, or a relay to one | answers what a test says |
//! | [`TlsRelay`] | TLS before a server that has none | nobody knows its authority |
//! | [`S3Server`] | an S3 server in memory | stops, starts, and is stricter than most |
//! | [`SftpServer`] | an SFTP server of a folder | lacks extensions and space, denies, changes its key |
//!
//! Everything listens on a free port of 127.0.0.1, starts without an `await`, and ends with its
//! owner. Everything runs on a runtime of its own, by the real clock: a test that pauses Tokio's
//! clock stops none of it. (A clock that is paused runs ahead while the test's runtime waits for
//! the network, so a timeout in such a test may come before any answer.)
//!
//! ```
//! use std::time::Duration;
//!
//! use testbed::http::{Answer, Scripted};
//! use testbed::{Direction, Fault, Proxy};
//!
//! let server = Scripted::start();
//! server.on(|request| request.path == "/a").answer(Answer::new(503));
//!
//! let network = Proxy::start(server.address());
//! network.set(Fault::Latency { up: Duration::from_millis(5), down: Duration::from_millis(5) });
//! network.next(1, Fault::Reset { direction: Direction::Down, after: 100 });
//! # let _ = network.address();
//! ```

pub mod http;
mod port;
mod proxy;
mod s3;
mod sftp;
mod tls;

pub use port::Port;
pub use proxy::{Direction, Fault, Proxy};
pub use s3::{OpenUpload, S3Server, StoredObject, pattern};
pub use sftp::SftpServer;
pub use tls::TlsRelay;
