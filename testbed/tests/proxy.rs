//! The network misbehaves as a test asks it to, and not otherwise.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use testbed::{Direction, Fault, Proxy};

/// What a test waits for at most, where something doesn't come.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a test waits for where nothing is to come.
const SILENCE: Duration = Duration::from_millis(100);

#[test]
fn without_a_fault_everything_passes_and_is_counted() {
    let proxy = Proxy::start(echo());

    let reply = exchange(&proxy, &[7; 300_000]).expect("an echo");

    assert_eq!(reply, [7; 300_000]);
    assert_eq!(proxy.connections(), 1);
    assert_eq!(proxy.bytes(Direction::Up), 300_000);
    assert_eq!(proxy.bytes(Direction::Down), 300_000);
}

#[test]
fn latency_delays_without_limiting_throughput() {
    let proxy = Proxy::start(echo());
    let (up, down) = (Duration::from_millis(100), Duration::from_millis(50));
    proxy.set(Fault::Latency { up, down });
    let began = Instant::now();

    let reply = exchange(&proxy, &[7; 4 << 20]).expect("an echo");

    let took = began.elapsed();
    assert_eq!(reply.len(), 4 << 20);
    assert!(took >= up + down, "{took:?}");
    assert!(
        took < 10 * (up + down),
        "64 chunks one after the other: {took:?}"
    );
}

#[test]
fn a_throttled_connection_is_as_slow_as_asked() {
    let proxy = Proxy::start(echo());
    proxy.set(Fault::Throttle {
        bytes_per_second: 100_000,
    });
    let began = Instant::now();

    exchange(&proxy, &[7; 20_000]).expect("an echo");

    let took = began.elapsed();
    assert!(took >= Duration::from_millis(190), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_reset_comes_after_the_bytes_that_pass() {
    let proxy = Proxy::start(echo());
    proxy.next(
        1,
        Fault::Reset {
            direction: Direction::Down,
            after: 10,
        },
    );

    let first = exchange(&proxy, &[7; 1000]);
    let second = exchange(&proxy, &[7; 1000]);

    assert_eq!(first, Err((vec![7; 10], ErrorKind::ConnectionReset)));
    assert_eq!(second, Ok(vec![7; 1000]));
}

#[test]
fn one_byte_arrives_wrong_and_its_neighbours_as_they_are() {
    let proxy = Proxy::start(echo());
    for direction in [Direction::Up, Direction::Down] {
        proxy.next(
            1,
            Fault::Flip {
                direction,
                after: 200_000,
            },
        );

        let first = exchange(&proxy, &[7; 300_000]).expect("an echo");
        let second = exchange(&proxy, &[7; 300_000]).expect("an echo");

        let mut wrong = vec![7; 300_000];
        wrong[200_000] = 6;
        assert!(first == wrong, "{direction:?}");
        assert_eq!(second, [7; 300_000]);
    }
}

#[test]
fn a_connection_can_be_reset_before_a_byte_has_passed() {
    let proxy = Proxy::start(echo());
    proxy.next(2, Fault::ResetAtConnect);

    let replies = [(); 3].map(|()| exchange(&proxy, b"x").is_ok());

    assert_eq!(replies, [false, false, true]);
    assert_eq!(proxy.bytes(Direction::Up), 1);
}

#[test]
fn a_close_ends_the_stream_early_but_cleanly() {
    let proxy = Proxy::start(echo());
    proxy.set(Fault::Close {
        direction: Direction::Down,
        after: 10,
    });

    let reply = exchange(&proxy, &[7; 1000]);

    assert_eq!(reply, Ok(vec![7; 10]));
}

#[test]
fn a_stalled_connection_goes_on_when_the_fault_is_cleared() {
    let proxy = Proxy::start(echo());
    proxy.set(Fault::Stall {
        direction: Direction::Up,
        after: 3,
    });
    let mut client = connect(&proxy);
    client.write_all(b"abcdef").expect("a write");

    let before = read_for(&mut client, SILENCE);
    proxy.clear();
    let mut rest = [0; 3];
    client.read_exact(&mut rest).expect("the rest");

    assert_eq!(before, b"abc");
    assert_eq!(&rest, b"def");
}

#[test]
fn a_fault_that_is_set_reaches_connections_that_live() {
    let proxy = Proxy::start(echo());
    let mut client = connect(&proxy);
    client.write_all(b"abc").expect("a write");
    client.read_exact(&mut [0; 3]).expect("an echo");

    proxy.set(Fault::DropReply);
    client.write_all(b"def").expect("a write");
    let error = client.read(&mut [0; 3]).expect_err("a reset");

    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(proxy.bytes(Direction::Up), 6);
    assert_eq!(proxy.bytes(Direction::Down), 3);
}

#[test]
fn a_black_hole_answers_nothing() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    server.set_nonblocking(true).expect("a mode");
    let proxy = Proxy::start(server.local_addr().expect("an address"));
    proxy.set(Fault::BlackHole);

    let mut client = connect(&proxy);
    client.write_all(b"abc").expect("a write");
    let read = read_for(&mut client, SILENCE);

    assert_eq!(read, b"");
    let accepted = server.accept().expect_err("no connection");
    assert_eq!(accepted.kind(), ErrorKind::WouldBlock);
}

#[test]
fn live_connections_can_be_reset_and_a_port_be_closed_for_a_while() {
    let proxy = Proxy::start(echo());
    let mut client = connect(&proxy);
    client.write_all(b"abc").expect("a write");
    client.read_exact(&mut [0; 3]).expect("an echo");

    proxy.close();
    let live = client.read(&mut [0; 3]).expect_err("a reset");
    let refused = TcpStream::connect(proxy.address()).expect_err("a refusal");
    proxy.reopen();

    assert_eq!(live.kind(), ErrorKind::ConnectionReset);
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(exchange(&proxy, b"abc"), Ok(b"abc".to_vec()));
}

#[test]
fn the_server_behind_can_change() {
    let dead = TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = Proxy::start(dead.local_addr().expect("an address"));
    drop(dead);

    let unreachable = exchange(&proxy, b"abc");
    proxy.set_upstream(echo());

    assert!(unreachable.is_err(), "{unreachable:?}");
    assert_eq!(exchange(&proxy, b"abc"), Ok(b"abc".to_vec()));
}

#[test]
fn a_proxy_ends_with_its_owner() {
    let proxy = Proxy::start(echo());
    let address = proxy.address();
    let mut client = connect(&proxy);

    drop(proxy);

    // The port is free again as soon as the runtime is down.
    let end = Instant::now() + PATIENCE;
    while TcpListener::bind(address).is_err() {
        assert!(Instant::now() < end, "the port is still taken");
        thread::yield_now();
    }
    assert!(matches!(client.read(&mut [0; 1]), Ok(0) | Err(_)));
}

/// A server that sends back what it gets. It lives as long as the test's process.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut from = stream.try_clone().expect("a handle");
                let _ = std::io::copy(&mut from, &mut &stream);
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).expect("a connection");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a read timeout");
    stream
}

/// Sends bytes and their end, and reads what comes back to its end: or what came before an error.
fn exchange(proxy: &Proxy, bytes: &[u8]) -> Result<Vec<u8>, (Vec<u8>, ErrorKind)> {
    let client = connect(proxy);
    let mut reply = Vec::new();
    // A reset is reported once, to whoever comes first.
    let (written, read) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (&client).write_all(bytes)?;
            client.shutdown(Shutdown::Write)
        });
        let read = (&client).read_to_end(&mut reply);
        (writer.join().expect("a writer"), read)
    });
    match read.and(written) {
        Ok(()) => Ok(reply),
        Err(error) => Err((reply, error.kind())),
    }
}

/// What comes within a time.
fn read_for(client: &mut TcpStream, time: Duration) -> Vec<u8> {
    client.set_read_timeout(Some(time)).expect("a read timeout");
    let mut read = Vec::new();
    let mut byte = [0; 1];
    while let Ok(1) = client.read(&mut byte) {
        read.push(byte[0]);
    }
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("a read timeout");
    read
}
