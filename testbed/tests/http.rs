//! A scripted server answers what the script says, and a relay what its upstream says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use testbed::http::{Answer, End, Scripted};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn rules_apply_in_turn_and_then_the_handler() {
    let server = Scripted::handling(|request| Answer::new(200).body(request.body.clone()));
    server
        .on(|request| request.path == "/a")
        .skip(1)
        .answer_each([Answer::new(503), Answer::new(500).body("no")]);

    let wires = [(); 4].map(|()| exchange(&server, &put("/a?x=%20&uploads", "body")));

    assert!(wires[0].starts_with("HTTP/1.1 200 "), "{wires:?}");
    assert!(wires[0].ends_with("\r\n\r\nbody"), "{wires:?}");
    assert!(wires[1].starts_with("HTTP/1.1 503 "), "{wires:?}");
    assert!(wires[2].starts_with("HTTP/1.1 500 "), "{wires:?}");
    assert!(wires[3].starts_with("HTTP/1.1 200 "), "{wires:?}");
    server.assert_rules_used();
}

#[test]
fn requests_are_noted_as_they_came() {
    let server = Scripted::start();
    let chunked = "PUT /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\
                   Connection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";

    exchange(&server, &put("/a%20b?x=%20&uploads", "body"));
    exchange(&server, chunked);
    let requests = server.take_requests();

    assert_eq!(requests[0].method, "PUT");
    assert_eq!(requests[0].path, "/a%20b");
    assert_eq!(requests[0].parameter("x"), Some("%20"));
    assert_eq!(requests[0].parameter("uploads"), Some(""));
    assert_eq!(requests[0].header("content-length"), Some("4"));
    assert_eq!(requests[0].body, "body");
    assert_eq!(requests[1].body, "abcde");
    assert!(server.requests().is_empty());
}

#[test]
fn requests_under_way_together_are_counted() {
    let server = Scripted::handling(|_| Answer::new(200).delay(Duration::from_millis(200)));

    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| exchange(&server, &put("/", "")));
        }
    });

    let most = server
        .requests()
        .iter()
        .map(|request| request.in_flight)
        .max();
    assert_eq!(most, Some(3));
}

#[test]
fn an_answer_can_be_cut_misdeclared_or_withheld() {
    let server = Scripted::start();
    let whole = Answer::new(200).body("0123456789");
    server.on(|_| true).answer_each([
        whole.clone().cut(4, End::Close),
        whole.clone().declaring(99),
        whole.clone().cut(4, End::Reset),
        Answer::none(End::Close),
    ]);

    let wires = [(); 4].map(|()| exchange(&server, &put("/", "")));

    assert!(
        wires[0].ends_with("content-length: 10\r\n\r\n0123"),
        "{wires:?}"
    );
    assert!(
        wires[1].ends_with("content-length: 99\r\n\r\n0123456789"),
        "{wires:?}"
    );
    assert!(wires[2].ends_with("0123 (ConnectionReset)"), "{wires:?}");
    assert_eq!(wires[3], "");
}

#[test]
fn a_stalled_answer_keeps_the_connection() {
    let server = Scripted::start();
    server.on(|_| true).answer(Answer::none(End::Stall));
    let mut client = send(&server, &put("/", ""));
    let silence = Duration::from_millis(100);
    client
        .set_read_timeout(Some(silence))
        .expect("a read timeout");

    let began = Instant::now();
    let read = client.read(&mut [0; 1]);

    assert!(read.is_err(), "{read:?}");
    assert!(began.elapsed() >= silence);
}

#[test]
fn a_relay_forwards_what_no_rule_fits_and_alters_what_one_does() {
    let server = Scripted::handling(|request| {
        Answer::new(200)
            .header("X-Host", request.header("host").unwrap_or_default())
            .body(request.body.clone())
    });
    let relay = Scripted::before(server.address());
    relay
        .on(|request| request.path == "/altered")
        .alter(|answer| answer.without_header("x-host").cut(2, End::Close));
    relay
        .on(|request| request.path == "/lost")
        .alter(|_| Answer::none(End::Reset));

    let forwarded = exchange(&relay, &put("/?a=b", "body"));
    let altered = exchange(&relay, &put("/altered", "body"));
    exchange(&relay, &put("/lost", "body"));

    assert!(forwarded.contains("x-host: h\r\n"), "{forwarded}");
    assert!(forwarded.ends_with("\r\n\r\nbody"), "{forwarded}");
    assert!(
        altered.ends_with("content-length: 4\r\n\r\nbo"),
        "{altered}"
    );
    let reached: Vec<_> = server.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(reached, ["/", "/altered", "/lost"]);
}

#[test]
fn a_relay_without_its_upstream_answers_502() {
    let server = Scripted::start();
    let relay = Scripted::before(server.address());
    server.close();

    let wire = exchange(&relay, &put("/", ""));

    assert!(wire.starts_with("HTTP/1.1 502 "), "{wire}");
}

fn put(target: &str, body: &str) -> String {
    format!(
        "PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn send(server: &Scripted, request: &str) -> TcpStream {
    let mut client = TcpStream::connect(server.address()).expect("a connection");
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("a read timeout");
    client.write_all(request.as_bytes()).expect("a request");
    client
}

/// All that comes back, with the error that ends it.
fn exchange(server: &Scripted, request: &str) -> String {
    let mut reply = Vec::new();
    let read = send(server, request).read_to_end(&mut reply);
    let text = String::from_utf8(reply).expect("an answer in text");
    match read {
        Ok(_) => text,
        Err(error) => format!("{text} ({:?})", error.kind()),
    }
}
