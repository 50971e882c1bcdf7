//! How files are read, whatever becomes of the bodies that hold them.

use super::*;

/// CAN-03.
#[tokio::test]
async fn readers_that_are_dropped_leave_no_connection_open() {
    let (server, proxy, client) = proxied();
    server.put(KEY_1, StoredObject::new(content(8 * MIB)));

    for _ in 0..50 {
        let mut bytes = client.open(raw(1), (..).into()).await.unwrap();
        bytes.next().await.unwrap().unwrap();
    }

    until("connections are closed", || proxy.live_connections() <= 2).await;
    assert_eq!(
        client.read(raw(1), (..10).into()).await.unwrap(),
        content(10)
    );
}

/// BIG-04.
#[tokio::test]
async fn a_range_beyond_four_gib_is_read() {
    let server = S3Server::start();
    let client = client(&server);
    let object = StoredObject::of_pattern(6 << 30);
    let wanted = (5 << 30) + 7..(5 << 30) + 107;
    server.put(KEY_1, object.clone());

    let read = client.read(raw(1), wanted.clone().into()).await.unwrap();

    assert_eq!(read, object.range(wanted));
}

/// FLT-02, FLT-04, FLT-11, K5: the rest is asked for, of the same version.
#[tokio::test]
async fn a_body_that_breaks_is_taken_up_where_it_broke() {
    for end in [End::Close, End::Reset] {
        for after in [0, 1, 99_999] {
            let (server, relay, client) = relayed();
            server.put(KEY_1, StoredObject::new(content(100_000)));
            relay
                .on(|request| request.method == "GET")
                .times(1)
                .alter(move |answer| answer.cut(after, end));

            let read = client.read(raw(1), (..).into()).await.unwrap();

            assert_eq!(read, content(100_000), "{end:?} after {after}");
            let requests = relay.requests();
            assert!(requests[1].header("if-match").is_some());
            assert!(requests[1].header("range").is_some());
        }
    }
}

/// FLT-03: `object_store` passes such a body on as whole.
#[tokio::test]
async fn a_body_that_is_shorter_than_its_range_is_never_whole() {
    let (server, relay, client) = relayed();
    server.put(KEY_1, StoredObject::new(content(1000)));
    relay.on(|request| request.method == "GET").alter(|answer| {
        let half = answer.bytes().slice(..answer.bytes().len() / 2);
        answer.body(half)
    });

    let read = retried(client).read(raw(1), (100..900).into()).await;

    match read {
        Ok(read) => assert_eq!(read, content(1000)[100..900]),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
    }
}

/// FLT-05.
#[tokio::test]
async fn a_server_that_sends_the_whole_file_is_read_in_part() {
    let server = S3Server::start();
    let fake = Scripted::handling(|_| Answer::new(200).header("etag", "\"a\"").body(content(1000)));
    let client = S3Client::new(config(&server, &fake.endpoint())).unwrap();

    assert_eq!(
        client.read(raw(1), (100..900).into()).await.unwrap(),
        content(1000)[100..900]
    );
    assert_eq!(client.read(raw(1), (1000..).into()).await.unwrap(), "");
    let error = client.open(raw(1), (1001..).into()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

/// FLT-09, K6.
#[tokio::test]
async fn a_file_that_is_replaced_within_a_break_is_not_spliced() {
    for heeds_if_match in [true, false] {
        let server = S3Server::start();
        let fake = Scripted::start();
        let part = |tag: &str| Answer::new(200).header("etag", tag).body(content(1000));
        fake.on(|_| true)
            .times(1)
            .answer(part("\"a\"").cut(500, End::Reset));
        fake.on(|_| true).answer(if heeds_if_match {
            Answer::s3_error(412, "PreconditionFailed")
        } else {
            part("\"b\"")
        });
        let client = S3Client::new(config(&server, &fake.endpoint())).unwrap();

        let error = client.read(raw(1), (..).into()).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("replaced"), "{error}");
    }
}

/// FLT-10, K23.
#[tokio::test]
async fn a_body_that_stalls_fails_and_one_that_crawls_does_not() {
    let (server, proxy, client) = proxied();
    server.put(KEY_1, StoredObject::new(content(32 * MIB)));
    let begun = Instant::now();
    let bytes = client.open(raw(1), (..).into()).await.unwrap();
    proxy.set(Fault::Stall {
        direction: Direction::Down,
        after: 0,
    });

    let read: Result<Vec<_>> = bytes.try_collect().await;

    assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );

    server.put(KEY_1, StoredObject::new(content(200_000)));
    proxy.clear();
    proxy.reset_connections();
    proxy.set(Fault::Throttle {
        bytes_per_second: 80_000,
    });
    let begun = Instant::now();

    let read = client.read(raw(1), (..).into()).await.unwrap();
    assert_eq!(read, content(200_000));
    assert!(
        begun.elapsed() > Duration::from_secs(2),
        "it took more than the limit"
    );
}
