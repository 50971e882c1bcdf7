//! How files get into the bucket: whole, once, and without leftovers.

use testbed::pattern;

use super::*;

/// S3W-01, S3W-03.
#[tokio::test]
async fn bodies_are_signed_and_sent_in_one_piece() {
    let (_server, relay, client) = relayed();

    write(&client, 1, 100).await.unwrap();
    write(&client, 2, 6 * MIB).await.unwrap();

    for request in relay.requests() {
        if request.method == "PUT" {
            let length = request.header("content-length").unwrap();
            assert_eq!(length, request.body.len().to_string());
            let hash = request.header("x-amz-content-sha256").unwrap();
            assert!(hash.len() == 64 && !hash.contains("STREAMING"), "{hash}");
        }
        assert_ne!(request.header("content-encoding"), Some("aws-chunked"));
        assert!(request.header("x-amz-trailer").is_none());
        assert!(request.header("transfer-encoding").is_none());
        let signed = request.header("authorization").unwrap();
        assert!(!signed.contains("accept-encoding"), "{signed}");
    }
}

/// A bucket with Object Lock and a default retention refuses uploads without a checksum.
#[tokio::test]
async fn uploads_carry_a_checksum_where_the_store_knows_it() {
    for (checksum, carries) in [(Checksum::None, false), (Checksum::Sha256, true)] {
        let (server, relay, _) = relayed();
        let provider = Provider {
            checksum,
            ..GENERIC
        };
        let config = config(&server, &relay.endpoint()).provider(provider);
        let client = S3Client::new(config).unwrap();

        write(&client, 1, 100).await.unwrap();
        write(&client, 2, 6 * MIB).await.unwrap();

        assert_eq!(server.keys().len(), 2);
        let requests = relay.requests();
        let uploads: Vec<_> = requests.iter().filter(|it| it.method == "PUT").collect();
        assert_eq!(uploads.len(), 3);
        for upload in uploads {
            let carried = upload.header("x-amz-checksum-sha256");
            assert_eq!(carried.is_some(), carries, "{carried:?}");
        }
    }
    assert_eq!(
        Provider::of_host("s3.amazonaws.com").checksum,
        Checksum::Sha256
    );
}

/// ATM-08, K11.
#[tokio::test]
async fn a_body_that_fails_leaves_no_upload() {
    let server = S3Server::start();
    let client = client(&server);
    for good in [0, 1, 5 * MIB, 5 * MIB + 1, 12 * MIB] {
        let chunks = [
            Ok(Bytes::from(content(good))),
            Err(Error::new(ErrorKind::Unavailable, "the source broke")),
        ];
        let body = Body::once(None, stream::iter(chunks).boxed());

        let error = client.write(raw(1), NOON, body).await.unwrap_err();

        assert_eq!(error.message(), "the source broke");
        assert!(server.open_uploads().is_empty(), "after {good} bytes");
        assert!(server.keys().is_empty(), "after {good} bytes");
    }
}

/// CAN-02, K20.
#[tokio::test]
async fn a_write_that_is_dropped_leaves_no_upload() {
    let server = S3Server::start();
    let client = client(&server);
    for good in [5 * MIB + 1, 12 * MIB] {
        let chunks = stream::iter([Ok(Bytes::from(content(good)))]).chain(stream::pending());
        let body = Body::once(None, chunks.boxed());
        let begun = server.requests("CreateMultipartUpload");
        let task = tokio::spawn({
            let client = client.clone();
            async move { client.write(raw(1), NOON, body).await }
        });
        until("the upload begins", || {
            server.requests("CreateMultipartUpload") > begun
        })
        .await;

        let aborted = server.requests("AbortMultipartUpload");
        task.abort();

        assert!(task.await.unwrap_err().is_cancelled());
        until("the upload is aborted", || {
            server.open_uploads().is_empty() && server.requests("AbortMultipartUpload") > aborted
        })
        .await;
        assert!(server.keys().is_empty());
    }
    write(&client, 1, 6 * MIB).await.unwrap();
}

/// BIG-01, RNG-09, S3W-05.
#[tokio::test]
async fn files_around_the_size_of_a_part_are_whole_and_few_parts_are_under_way() {
    let (server, relay, _) = relayed();
    let config = config(&server, &relay.endpoint()).parts_in_flight(NonZeroUsize::new(2).unwrap());
    let client = S3Client::new(config).unwrap();
    let part = 5 * MIB;
    for size in [part - 1, part, part + 1, 2 * part, 4 * part + 1] {
        for known in [true, false] {
            let body = content(size);
            let chunks: Vec<_> = body
                .chunks(100_001)
                .map(Bytes::copy_from_slice)
                .map(Ok)
                .collect();
            let said = known.then_some(size as u64);
            relay.take_requests();

            let info = client
                .write(raw(1), NOON, Body::once(said, stream::iter(chunks).boxed()))
                .await
                .unwrap();

            assert_eq!(info.size, size as u64);
            assert!(
                server.object(KEY_1).unwrap().bytes() == body,
                "{size} bytes"
            );
            let requests = relay.take_requests();
            let parts: Vec<_> = requests
                .iter()
                .filter(|request| request.parameter("partNumber").is_some())
                .collect();
            assert_eq!(parts.is_empty(), size <= part);
            assert!(parts.iter().all(|request| request.in_flight <= 2));
        }
    }
    for edge in [part - 1, part, part + 1] {
        let range = (edge as u64 - 2)..(edge as u64 + 2);
        let read = client.read(raw(1), range.into()).await.unwrap();
        assert_eq!(read, content(4 * part + 1)[edge - 2..edge + 2]);
    }
}

/// FLT-06, FLT-12: a lost part does not cost the whole upload.
#[tokio::test]
async fn a_part_that_fails_is_sent_again_and_a_file_is_whole() {
    for answer in [
        Answer::s3_error(503, "SlowDown"),
        Answer::s3_error(500, "InternalError"),
        Answer::none(End::Reset),
    ] {
        let (server, relay, client) = relayed();
        relay
            .on(|request| request.parameter("partNumber") == Some("2"))
            .times(2)
            .answer(answer);

        write(&client, 1, 11 * MIB).await.unwrap();

        assert!(server.object(KEY_1).unwrap().bytes() == content(11 * MIB));
        assert!(server.open_uploads().is_empty());
    }
}

/// FLT-06: on a slow line a part took more than 20 seconds, which were taken for time lost, and one
/// that broke then cost the whole upload.
#[tokio::test]
async fn a_part_that_breaks_after_long_is_sent_again() {
    let (server, relay, client) = relayed();
    let is_second = |request: &testbed::http::Request| request.parameter("partNumber") == Some("2");
    let broken = Answer::none(End::Reset);
    relay
        .on(is_second)
        .answer_each([broken.clone().delay(Duration::from_secs(1)), broken]);
    let writing = tokio::spawn(async move { write(&client, 1, 11 * MIB).await });
    until("the second part is sent", || {
        relay.requests().iter().any(is_second)
    })
    .await;

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(25)).await;
    tokio::time::resume();
    writing.await.expect("the task ends").unwrap();

    assert!(server.object(KEY_1).unwrap().bytes() == content(11 * MIB));
    relay.assert_rules_used();
}

/// FLT-07, K11.
#[tokio::test]
async fn a_completion_that_says_no_with_a_good_status_is_an_error() {
    let (server, relay, client) = relayed();
    relay
        .on(|request| request.method == "POST" && request.parameter("uploadId").is_some())
        .answer(
            Answer::new(200)
                .body("<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code></Error>"),
        );

    let error = write(&client, 1, 6 * MIB).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(server.keys().is_empty());
    assert!(server.open_uploads().is_empty());
}

/// FLT-08: the reply to what was done is lost.
#[tokio::test]
async fn a_lost_reply_gives_one_whole_file() {
    let (server, relay, client) = relayed();
    relay
        .on(|request| request.method == "POST" && request.parameter("uploadId").is_some())
        .times(1)
        .alter(|_| Answer::none(End::Reset));
    relay
        .on(|request| request.method == "PUT" && request.parameter("uploadId").is_none())
        .times(1)
        .alter(|_| Answer::none(End::Reset));
    let retried = retried(client);

    retried
        .write(raw(1), NOON, content(6 * MIB).into())
        .await
        .unwrap();
    retried
        .write(raw(2), NOON, content(10).into())
        .await
        .unwrap();

    assert!(server.object(KEY_1).unwrap().bytes() == content(6 * MIB));
    assert_eq!(server.keys().len(), 2);
    assert!(server.open_uploads().is_empty());
}

/// FLT-06: whoever writes one large file shall not be the one who overloads the store.
#[tokio::test]
async fn a_part_that_fails_for_good_ends_the_write_soon() {
    let (server, relay, client) = relayed();
    relay
        .on(|request| request.parameter("partNumber") == Some("2"))
        .answer(Answer::s3_error(503, "SlowDown"));
    let begun = Instant::now();

    let error = write(&client, 1, 11 * MIB).await.unwrap_err();

    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("fewer requests"), "{error}");
    let requests = relay.requests();
    let second = requests
        .iter()
        .filter(|it| it.parameter("partNumber") == Some("2"));
    assert_eq!(second.count(), 4);
    assert!(server.open_uploads().is_empty());
    assert!(server.keys().is_empty());
}

/// FLT-13: what arrives is not what was signed.
#[tokio::test]
async fn a_byte_that_changes_on_its_way_to_the_store_is_not_stored() {
    let (server, proxy, client) = proxied();
    let flip = Fault::Flip {
        direction: Direction::Up,
        after: 500_000,
    };
    proxy.next(1, flip);

    let error = write(&client, 1, MIB).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("changed or cut"), "{error}");
    assert!(server.keys().is_empty());
}

/// FLT-13: of a large file, that part is sent again.
#[tokio::test]
async fn a_part_that_changes_on_its_way_to_the_store_is_sent_again() {
    let (server, proxy, client) = proxied();
    let flip = Fault::Flip {
        direction: Direction::Up,
        after: 500_000,
    };
    proxy.next(1, flip);

    write(&client, 1, 6 * MIB).await.unwrap();

    assert!(server.object(KEY_1).unwrap().bytes() == content(6 * MIB));
    assert_eq!(server.requests("UploadPart"), 3);
}

/// K23: buffers on the way took all of a request at once, and it was given up while they emptied.
#[tokio::test]
async fn an_upload_that_crawls_behind_buffers_is_not_cut() {
    let (server, proxy, _) = proxied();
    let limit = Duration::from_millis(500);
    let config = config(&server, &format!("http://{}", proxy.address())).request_timeout(limit);
    let client = S3Client::new(config).unwrap();
    proxy.set(Fault::Throttle {
        bytes_per_second: 2 << 20,
    });
    let begun = Instant::now();

    write(&client, 1, 3 * MIB).await.unwrap();

    let took = begun.elapsed();
    assert!(took > 2 * limit, "it took more than the limit: {took:?}");
    assert!(server.object(KEY_1).unwrap().bytes() == content(3 * MIB));
}

/// K23: the parts of a file are taken at once, and the line carries them for longer than a layer
/// waits for a store to take anything.
#[tokio::test]
async fn an_upload_in_parts_over_a_slow_line_is_not_cut_by_a_layer() {
    let (server, proxy, _) = proxied();
    let client = S3Client::new(config(&server, &format!("http://{}", proxy.address()))).unwrap();
    let short = Duration::from_millis(500);
    let settings = TimeoutSettings {
        call: short,
        stall: short,
        ..TimeoutSettings::default()
    };
    let client = Timeout::new(client, settings).leaving_writes_to_the_client();
    proxy.set(Fault::Throttle {
        bytes_per_second: 4 << 20,
    });
    let begun = Instant::now();

    let body = content(11 * MIB).into();
    client.write(raw(1), NOON, body).await.unwrap();

    assert!(begun.elapsed() > 2 * short, "{:?}", begun.elapsed());
    assert!(server.object(KEY_1).unwrap().bytes() == content(11 * MIB));
}

/// S3W-05: some stores take fewer parts at the same time than others.
#[tokio::test]
async fn no_more_parts_are_under_way_than_the_store_takes() {
    let (server, relay, _) = relayed();
    let slow = Provider {
        parts_in_flight_max: NonZeroUsize::MIN,
        ..GENERIC
    };
    let client = S3Client::new(config(&server, &relay.endpoint()).provider(slow)).unwrap();

    write(&client, 1, 21 * MIB).await.unwrap();

    let requests = relay.requests();
    assert_eq!(requests.len(), 7);
    assert!(requests.iter().all(|request| request.in_flight == 1));
}

/// S3W-05: a store may take as long for one part as for many others.
#[tokio::test]
async fn a_part_that_takes_long_holds_back_no_other_one() {
    let (relay, server, client) = slow_at_first(Duration::from_secs(3600));

    let writing = tokio::spawn(async move { write(&client, 1, 21 * MIB).await });

    until("all other parts are sent", || {
        let requests = relay.requests();
        let parts = requests.iter().filter_map(|it| it.parameter("partNumber"));
        parts.count() == 5
    })
    .await;
    writing.abort();
    assert!(server.keys().is_empty());
}

/// S3W-05
#[tokio::test]
async fn parts_are_put_together_in_order_whichever_is_stored_first() {
    let (_relay, server, client) = slow_at_first(Duration::from_secs(1));

    write(&client, 1, 21 * MIB)
        .await
        .expect("the server takes every part");

    let object = server.object(KEY_1).expect("the file is stored");
    assert!(object.bytes() == content(21 * MIB));
}

/// A client with two parts under way at once, of a server that takes so long for the first one.
fn slow_at_first(delay: Duration) -> (Scripted, S3Server, S3Client) {
    let (server, relay, _) = relayed();
    relay
        .on(|request| request.parameter("partNumber") == Some("1"))
        .alter(move |answer| answer.delay(delay));
    let config = config(&server, &relay.endpoint())
        .parts_in_flight(NonZeroUsize::new(2).expect("two is not zero"));
    let client = S3Client::new(config).expect("a client");
    (relay, server, client)
}

/// BIG-03: some stores take fewer parts than others.
#[tokio::test]
async fn a_file_has_equal_parts_and_no_more_than_the_store_takes() {
    let (server, relay, _) = relayed();
    let few = Provider {
        parts_max: 4,
        ..GENERIC
    };
    let client = S3Client::new(config(&server, &relay.endpoint()).provider(few)).unwrap();
    let body = |size: Option<u64>| {
        let chunks = stream::iter(vec![Bytes::from(content(MIB)); 41]).map(Ok);
        Body::once(size, chunks.boxed())
    };

    let known = Some(41 << 20);
    client.write(raw(1), NOON, body(known)).await.unwrap();
    let mut parts: Vec<_> = relay
        .requests()
        .iter()
        .filter(|request| request.parameter("partNumber").is_some())
        .map(|request| {
            (
                request.parameter("partNumber").map(str::to_owned),
                request.body.len() / MIB,
            )
        })
        .collect();
    parts.sort_unstable();
    let error = client.write(raw(2), NOON, body(None)).await.unwrap_err();

    let number = |number: &str| Some(number.to_owned());
    assert_eq!(
        parts,
        [
            (number("1"), 11),
            (number("2"), 11),
            (number("3"), 11),
            (number("4"), 8)
        ]
    );
    assert_eq!(server.object(KEY_1).unwrap().size(), 41 << 20);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("say its size"), "{error}");
    assert_eq!(server.keys(), [KEY_1]);
    assert!(server.open_uploads().is_empty());
}

/// BIG-03: beyond what one request can hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_more_than_five_gib_goes_through_in_the_memory_of_a_few_parts() {
    const SIZE: u64 = (5 << 30) + 1;
    const PIECE: u64 = 1 << 20;
    let server = S3Server::start();
    let config = config(&server, &server.endpoint()).part_size(64 << 20);
    let client = S3Client::new(config).unwrap();
    let pieces = (0..SIZE).step_by(PIECE as usize);
    let pieces = pieces.map(|at| Ok(pattern(at..(at + PIECE).min(SIZE))));

    let written = client
        .write(raw(1), NOON, Body::once(SIZE, stream::iter(pieces).boxed()))
        .await
        .unwrap();

    assert_eq!(written.size, SIZE);
    let stored = server.object(KEY_1).unwrap();
    assert_eq!(stored.size(), SIZE);
    for at in [0, (64 << 20) - 50, (4 << 30) - 50, SIZE - 100] {
        assert_eq!(stored.range(at..at + 100), pattern(at..at + 100), "at {at}");
    }
    assert_eq!(server.requests("UploadPart"), SIZE.div_ceil(64 << 20));
}
