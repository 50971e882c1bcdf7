//! What only a look at the bucket shows, and what only a broken network or server brings about.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, Error, ErrorKind, FileId, FileInfo, Level, ReplicaClient, ReplicaClientExt, Result,
    Timestamp, Timestamps, Txid, TxidRange,
};
use replica_s3::{Credentials, Encryption, S3Client, S3Config};
use testbed::http::{Answer, End, Scripted};
use testbed::{Direction, Fault, Proxy, S3Server, StoredObject};

const NOON: Timestamp = Timestamp::from_millis(1_795_247_087_120);
const KEY_1: &str = "db/0000/0000000000000001-0000000000000001.ltx";
const MIB: usize = 1 << 20;

fn raw(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("a test's txid is not zero")),
    }
}

fn config(server: &S3Server, endpoint: &str) -> S3Config {
    S3Config::new(server.bucket())
        .endpoint(endpoint)
        .allow_http(true)
        .credentials(Credentials::new(server.access_key(), server.secret_key()))
        .prefix("db")
        .part_size(5 << 20)
}

fn client(server: &S3Server) -> S3Client {
    S3Client::new(config(server, &server.endpoint())).expect("a client")
}

/// A client of a server that answers as it is told, before one that keeps what it is given.
fn relayed() -> (S3Server, Scripted, S3Client) {
    let server = S3Server::start();
    let relay = Scripted::before(server.address());
    let client = S3Client::new(config(&server, &relay.endpoint())).expect("a client");
    (server, relay, client)
}

/// The same, before which the network breaks as it is told, and with limits of a second.
fn proxied() -> (S3Server, Proxy, S3Client) {
    let server = S3Server::start();
    let proxy = Proxy::start(server.address());
    let config = config(&server, &format!("http://{}", proxy.address()))
        .connect_timeout(Duration::from_secs(1))
        .request_timeout(Duration::from_secs(1))
        .stall_timeout(Duration::from_secs(1));
    let client = S3Client::new(config).expect("a client");
    (server, proxy, client)
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}

async fn write(client: &S3Client, txid: u64, size: usize) -> Result<FileInfo> {
    client.write(raw(txid), NOON, content(size).into()).await
}

async fn names(client: &S3Client, timestamps: Timestamps) -> Result<Vec<FileInfo>> {
    client
        .list(Level::RAW, Txid::FIRST, timestamps)
        .await?
        .try_collect()
        .await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// CTR-06, K1.
#[tokio::test]
async fn keys_and_times_are_litestreams() {
    let server = S3Server::start();
    let client = client(&server);
    let snapshot = FileId {
        level: Level::SNAPSHOT,
        txids: TxidRange::new(Txid::FIRST, Txid::new(0x1f).unwrap()).unwrap(),
    };

    write(&client, 1, 100).await.unwrap();
    client
        .write(snapshot, NOON, content(6 * MIB).into())
        .await
        .unwrap();

    let second = "db/0009/0000000000000001-000000000000001f.ltx";
    assert_eq!(server.keys(), [KEY_1, second]);
    for key in [KEY_1, second] {
        let object = server.object(key).unwrap();
        assert_eq!(
            object.metadata("litestream-timestamp"),
            Some("2026-11-21T07:44:47.12Z"),
            "{key}"
        );
    }
}

/// LST-09, K2: one such key makes some libraries fail the whole listing.
#[tokio::test]
async fn what_is_no_file_of_the_replica_disturbs_nothing() {
    let server = S3Server::start();
    let client = client(&server);
    write(&client, 1, 100).await.unwrap();
    for key in [
        "db/0000/",
        "db/0000//x",
        "db/0000/.",
        "db/0000/0000000000000002-0000000000000002.ltx.tmp",
        "db/0000/000000000000000A-000000000000000A.ltx",
        "db/0000/000000000000002-0000000000000002.ltx",
        "db/0000/sub/0000000000000002-0000000000000002.ltx",
        "db/0000/a&b<c>\"'.ltx",
        "db/0000/zeile\numbruch",
        "db2/0000/0000000000000003-0000000000000003.ltx",
    ] {
        server.put(key, StoredObject::new("foreign"));
    }

    let listed = names(&client, Timestamps::Exact).await.unwrap();
    client.delete_all().await.unwrap();

    assert_eq!(
        listed.iter().map(|info| info.id).collect::<Vec<_>>(),
        [raw(1)]
    );
    assert_eq!(
        server.keys(),
        ["db2/0000/0000000000000003-0000000000000003.ltx"]
    );
}

/// ISO-05.
#[tokio::test]
async fn a_replica_at_the_root_of_a_bucket_deletes_only_its_own() {
    let server = S3Server::start();
    let config = config(&server, &server.endpoint()).prefix("");
    let client = S3Client::new(config).unwrap();
    write(&client, 1, 100).await.unwrap();
    server.put("readme", StoredObject::new("foreign"));

    assert_eq!(names(&client, Timestamps::Fast).await.unwrap().len(), 1);
    client.delete_all().await.unwrap();

    assert_eq!(server.keys(), ["readme"]);
}

/// K17.
#[tokio::test]
async fn deleting_all_aborts_the_open_uploads_below_the_root() {
    let server = S3Server::start();
    let client = client(&server);
    server.leave_upload(KEY_1, std::time::SystemTime::UNIX_EPOCH);
    server.leave_upload("db2/x", std::time::SystemTime::UNIX_EPOCH);

    client.delete_all().await.unwrap();

    let left: Vec<_> = server
        .open_uploads()
        .into_iter()
        .map(|upload| upload.key)
        .collect();
    assert_eq!(left, ["db2/x"]);
}

/// TIM-05, K10.
#[tokio::test]
async fn a_file_without_its_time_fails_an_exact_listing_and_no_other() {
    let server = S3Server::start();
    let client = client(&server);
    server.put(KEY_1, StoredObject::new("copied without metadata"));

    let fast = names(&client, Timestamps::Fast).await.unwrap();
    let error = names(&client, Timestamps::Exact).await.unwrap_err();

    assert_eq!(fast.len(), 1);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(error.files(), [raw(1)]);
}

/// LST-11, K9.
#[tokio::test]
async fn a_page_that_fails_is_an_error_and_no_end() {
    let (server, relay, client) = relayed();
    server.set_page_max(2);
    for txid in 1..=5 {
        write(&client, txid, 1).await.unwrap();
    }
    relay
        .on(|request| request.parameter("list-type").is_some())
        .skip(1)
        .answer(Answer::s3_error(503, "SlowDown"));

    let files = client
        .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap();
    let items: Vec<_> = files.collect().await;

    assert_eq!(items.len(), 3);
    assert_eq!(
        items[2].as_ref().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
}

/// K8: S3's directory buckets list in no order.
#[tokio::test]
async fn a_listing_in_no_order_is_an_error() {
    let server = S3Server::start();
    let fake = Scripted::handling(|_| {
        let object = |txid: u64| {
            let key = format!("db/0000/{}", raw(txid).txids);
            format!(
                "<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            )
        };
        Answer::new(200).body(format!(
            "<ListBucketResult>{}{}<IsTruncated>false</IsTruncated></ListBucketResult>",
            object(2),
            object(1)
        ))
    });
    let client = S3Client::new(config(&server, &fake.endpoint())).unwrap();

    let error = names(&client, Timestamps::Fast).await.unwrap_err();

    assert!(error.to_string().contains("order"), "{error}");
}

/// ERR-02, ERR-03, ERR-04, ERR-06, K4, K21.
#[tokio::test]
async fn each_refusal_has_its_kind_at_once_and_says_what_to_do() {
    use ErrorKind::{Invalid, NotFound, Other, PermissionDenied, Unavailable};
    for (status, code, kind, says) in [
        (404, "NoSuchKey", NotFound, "no such file"),
        (404, "NoSuchBucket", Invalid, "no bucket"),
        (404, "", Invalid, "address of a store"),
        (403, "AccessDenied", PermissionDenied, "permissions"),
        (403, "InvalidAccessKeyId", PermissionDenied, "access key"),
        (403, "SignatureDoesNotMatch", PermissionDenied, "secret key"),
        (400, "ExpiredToken", PermissionDenied, "expired"),
        (403, "RequestTimeTooSkewed", Invalid, "clocks"),
        (301, "PermanentRedirect", Invalid, "region"),
        (400, "AuthorizationHeaderMalformed", Invalid, "region"),
        (400, "InvalidArgument", Invalid, "InvalidArgument"),
        (503, "SlowDown", Unavailable, "fewer requests"),
        (400, "RequestTimeout", Unavailable, "waited"),
        (499, "RequestCanceled", Unavailable, "waited"),
        (408, "", Unavailable, "later"),
        (429, "", Unavailable, "later"),
        (500, "InternalError", Unavailable, "out of order"),
        (502, "", Unavailable, "out of order"),
        (504, "", Unavailable, "out of order"),
        (507, "XMinioStorageFull", Other, "full"),
    ] {
        let server = S3Server::start();
        let fake = Scripted::handling(move |_| Answer::s3_error(status, code));
        let client = S3Client::new(config(&server, &fake.endpoint())).unwrap();

        let opened = client.open(raw(1), (..).into()).await.err().unwrap();
        let written = write(&client, 1, 10).await.unwrap_err();
        let deleted = client.delete(&[raw(1)]).await;

        for error in [opened, written] {
            assert_eq!(error.kind(), kind, "{status} {code}: {error}");
            assert!(error.to_string().contains(says), "{error}");
        }
        if !matches!(status, 404) {
            assert_eq!(deleted.unwrap_err().kind(), kind, "{status} {code}");
        }
        let listed = names(&client, Timestamps::Fast).await;
        let reason = "a refusal never looks like an empty listing";
        assert_eq!(listed.expect_err(reason).kind(), kind, "{status} {code}");
        // Trying again is for the layers.
        assert_eq!(fake.requests().len(), 4, "{status} {code}");
    }
}

/// ERR-02, ERR-03 against a server that has a bucket and a key, and not these.
#[tokio::test]
async fn a_wrong_bucket_and_a_wrong_key_are_told_apart() {
    let server = S3Server::start();
    let mut lost = config(&server, &server.endpoint());
    lost.bucket = "nobodys".to_owned();
    let stranger = config(&server, &server.endpoint())
        .credentials(Credentials::new(server.access_key(), "wrong-secret"));

    for (config, kind) in [
        (lost, ErrorKind::Invalid),
        (stranger, ErrorKind::PermissionDenied),
    ] {
        let client = S3Client::new(config).unwrap();
        let open = client.open(raw(1), (..).into()).await.err().unwrap();
        let empty = client.open(raw(1), (1..1).into()).await.err().unwrap();
        let list = names(&client, Timestamps::Exact).await.unwrap_err();
        let put = write(&client, 1, 10).await.unwrap_err();
        let large = write(&client, 1, 6 * MIB).await.unwrap_err();
        let delete = client.delete(&[raw(1)]).await.unwrap_err();
        let all = client.delete_all().await.unwrap_err();

        for error in [open, empty, list, put, large, delete, all] {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!format!("{error:?}").contains("wrong-secret"));
        }
    }
}

#[tokio::test]
async fn the_right_region_and_both_clocks_are_said() {
    let server = S3Server::start();
    let fake = Scripted::start();
    fake.on(|request| request.method == "GET").answer(
        Answer::s3_error(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-north-1"),
    );
    fake.on(|request| request.method == "PUT")
        .answer(Answer::new(403).body(
            "<Error><Code>RequestTimeTooSkewed</Code><RequestTime>20200101T000000Z</RequestTime>\
         <ServerTime>2026-11-21T12:00:00Z</ServerTime></Error>",
        ));
    let client = S3Client::new(config(&server, &fake.endpoint())).unwrap();

    let region = client.open(raw(1), (..).into()).await.err().unwrap();
    let clock = write(&client, 1, 1).await.unwrap_err();

    assert!(region.to_string().contains("eu-north-1"), "{region}");
    for time in ["20200101T000000Z", "2026-11-21T12:00:00Z"] {
        assert!(clock.to_string().contains(time), "{clock}");
    }
}

/// ERR-07, K23.
#[tokio::test]
async fn a_dead_host_fails_within_the_time_to_connect() {
    let server = S3Server::start();
    for (endpoint, says) in [
        // An address that nobody has (RFC 5737), and a name that nobody has (RFC 2606).
        ("http://192.0.2.1:9000", ""),
        ("http://replica.invalid", ""),
        ("http://127.0.0.1:1", "nobody listens"),
    ] {
        let config = config(&server, endpoint).connect_timeout(Duration::from_secs(1));
        let client = S3Client::new(config).unwrap();
        let begun = Instant::now();

        let error = write(&client, 1, 6 * MIB).await.unwrap_err();

        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{endpoint}: {:?}",
            begun.elapsed()
        );
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_invalid() {
    let (server, proxy, _) = proxied();
    let endpoint = format!("https://{}", proxy.address());
    let client = S3Client::new(config(&server, &endpoint)).unwrap();

    let error = write(&client, 1, 1).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
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

        task.abort();

        assert!(task.await.unwrap_err().is_cancelled());
        let aborted = server.requests("AbortMultipartUpload");
        until("the upload is aborted", || {
            server.open_uploads().is_empty() && server.requests("AbortMultipartUpload") >= aborted
        })
        .await;
        assert!(server.keys().is_empty());
    }
    write(&client, 1, 6 * MIB).await.unwrap();
}

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

/// DEL-04, S3W-02.
#[tokio::test]
async fn files_are_deleted_in_batches_of_a_thousand() {
    let (server, relay, client) = relayed();
    for count in [1_u64, 1000, 1001, 2500] {
        let files: Vec<_> = (1..=count).map(raw).collect();
        for file in &files {
            let key = format!("db/0000/{}", file.txids);
            server.put(&key, StoredObject::new("x"));
        }
        relay.take_requests();

        client.delete(&files).await.unwrap();

        assert!(server.keys().is_empty());
        let requests = relay.take_requests();
        assert_eq!(requests.len() as u64, count.div_ceil(1000));
        assert!(
            requests
                .iter()
                .all(|request| request.header("content-md5").is_some())
        );
    }
    client.delete(&[]).await.unwrap();
    assert!(relay.take_requests().is_empty());
}

/// DEL-05, K16.
#[tokio::test]
async fn a_file_that_could_not_be_deleted_is_named_and_the_others_are_gone() {
    let (server, relay, client) = relayed();
    for txid in 1..=3 {
        write(&client, txid, 1).await.unwrap();
    }
    relay.on(|request| request.method == "POST").times(1).alter(|_| {
        Answer::new(200).body(format!(
            "<DeleteResult><Error><Key>{KEY_1}</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
             <Error><Key>db/0000/{}</Key><Code>NoSuchKey</Code></Error></DeleteResult>",
            raw(2).txids
        ))
    });

    let error = client.delete(&[raw(1), raw(2), raw(3)]).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(error.files(), [raw(1)]);
    assert!(server.keys().is_empty());
}

/// A store once named a key that nobody had asked about, and `object_store` panicked.
#[tokio::test]
async fn a_failure_of_a_key_that_nobody_named_is_that_of_all() {
    let (_server, relay, client) = relayed();
    relay
        .on(|request| request.method == "POST")
        .answer(Answer::new(200).body(
            "<DeleteResult><Error><Key>else</Key><Code>InternalError</Code></Error></DeleteResult>",
        ));

    let error = client.delete(&[raw(1), raw(2)]).await.unwrap_err();

    assert_eq!(error.files(), [raw(1), raw(2)]);
}

/// S3W-04.
#[tokio::test]
async fn files_are_deleted_one_by_one_where_batches_are_refused() {
    for (status, code) in [(501, "NotImplemented"), (405, "MethodNotAllowed")] {
        let (server, relay, client) = relayed();
        for txid in 1..=3 {
            write(&client, txid, 1).await.unwrap();
        }
        relay
            .on(|request| request.method == "POST")
            .answer(Answer::s3_error(status, code));

        client.delete(&[raw(1), raw(2)]).await.unwrap();
        client.delete(&[raw(3)]).await.unwrap();

        assert!(server.keys().is_empty());
        let requests = relay.requests();
        let batches = requests.iter().filter(|request| request.method == "POST");
        assert_eq!(batches.count(), 1, "a refusal is remembered");
    }
}

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
    let retried = replica_layers::Retry::new(client.clone(), replica_layers::Backoff::default());

    let read = retried.read(raw(1), (100..900).into()).await;

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

    assert_ne!(error.kind(), ErrorKind::Other, "{error}");
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
    let retried = replica_layers::Retry::new(client, replica_layers::Backoff::default());

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

/// K24: the server is killed during each operation, and comes back.
#[tokio::test]
async fn after_a_server_has_come_back_the_next_call_works() {
    let (server, proxy, client) = proxied();
    write(&client, 1, 100).await.unwrap();
    for direction in [Direction::Up, Direction::Down] {
        proxy.set(Fault::Reset {
            direction,
            after: 100,
        });
        drop(names(&client, Timestamps::Exact).await);
        drop(client.read(raw(1), (..).into()).await);
        drop(write(&client, 2, 6 * MIB).await);
        drop(client.delete(&[raw(2)]).await);
        drop(client.delete_all().await);
        proxy.close();
        write(&client, 3, 10).await.unwrap_err();
        proxy.reopen();
        proxy.clear();

        write(&client, 1, 6 * MIB).await.unwrap();
        assert_eq!(
            client.read(raw(1), (..10).into()).await.unwrap(),
            content(10)
        );
        client.delete(&[raw(1)]).await.unwrap();
        client.delete_all().await.unwrap();
        assert!(names(&client, Timestamps::Exact).await.unwrap().is_empty());
        assert!(server.keys().is_empty());
        until("no upload stays open", || server.open_uploads().is_empty()).await;
        write(&client, 1, 100).await.unwrap();
    }
}

#[test]
fn what_can_not_be_a_configuration_is_invalid_and_says_why() {
    let good = || S3Config::new("bucket").credentials(Credentials::new("key-id", "its-secret"));
    for (config, says) in [
        (S3Config::new(""), "missing"),
        (S3Config::new("a b"), "no name"),
        (S3Config::new("logs--use1-az4--x-s3"), "directory bucket"),
        (good().endpoint("http://minio:9000"), "plain HTTP"),
        (good().endpoint("ftp://minio"), "https"),
        (good().endpoint("https://its-secret@minio"), "credentials"),
        (good().endpoint("https://"), "endpoint"),
        (good().prefix("a/../b"), "`..`"),
        (good().prefix("a\nb"), "control"),
        (good().prefix(&"x".repeat(1000)), "long"),
        (good().part_size(1), "part size"),
        (good().stall_timeout(Duration::ZERO), "stall"),
        (
            good().credentials(Credentials::new("key-id", "its-secret\n")),
            "secret key",
        ),
    ] {
        let error = S3Client::new(config).unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?}").contains("its-secret"), "{error:?}");
    }
}

/// K22.
#[test]
fn no_secret_is_in_a_debug_text() {
    let config = S3Config::new("bucket")
        .endpoint("https://user:its-secret@minio")
        .encryption(Encryption::Customer { key: [b'k'; 32] })
        .credentials(Credentials::Static {
            access_key_id: "key-id".to_owned(),
            secret_access_key: "its-secret".to_owned(),
            session_token: Some("its-secret-token".to_owned()),
        });

    let shown = format!("{config:?}");
    let client = format!(
        "{:?}",
        S3Client::new(config.endpoint("https://minio")).unwrap()
    );

    for text in [shown, client] {
        assert!(
            !text.contains("its-secret") && !text.contains("107, 107"),
            "{text}"
        );
    }
}
