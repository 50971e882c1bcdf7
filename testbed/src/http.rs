//! An HTTP/1.1 server that answers what a test says, alone or before another server.
//!
//! ```no_run
//! use testbed::http::{Answer, End, Scripted};
//! # let upstream = "127.0.0.1:9000".parse().unwrap();
//!
//! let relay = Scripted::before(upstream);
//! // The first two uploads fail, the third reaches the server and its reply is lost.
//! relay.on(|request| request.method == "PUT").times(2).answer(Answer::new(503));
//! relay.on(|request| request.method == "PUT").times(1).alter(|_| Answer::none(End::Reset));
//! ```

mod message;
mod scripted;

pub use message::{Answer, End, Request};
pub use scripted::{On, Scripted};
