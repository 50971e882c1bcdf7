//! A proxy that adds a round trip's time: `latency UPSTREAM MILLISECONDS`.
//!
//! Prints its address and runs until its standard input ends or it is killed. Benchmarks put it
//! before a server of this machine, to measure what a distance costs.

#![allow(clippy::print_stdout, reason = "a command prints")]

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use testbed::{Fault, Proxy};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(upstream), Some(rtt)) = (args.next(), args.next()) else {
        return Err("usage: latency UPSTREAM MILLISECONDS, as in latency 127.0.0.1:2222 20".into());
    };
    let one_way = Duration::from_millis(rtt.parse()?) / 2;
    let proxy = Proxy::start(upstream.parse()?);
    proxy.set(Fault::Latency {
        up: one_way,
        down: one_way,
    });
    println!("{}", proxy.address());

    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
