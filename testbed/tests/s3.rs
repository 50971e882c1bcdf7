//! A client that isn't ours finds an S3 server, and the test sees what it stored.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error, GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, RetryConfig, WriteMultipart,
};
use testbed::http::{Answer, End, Scripted};
use testbed::{S3Server, StoredObject, pattern};

#[tokio::test]
async fn what_a_client_puts_the_test_sees_and_the_client_gets() {
    let server = S3Server::start();
    let client = client(&server);
    let path = Path::from("folder/a b+c");
    let metadata = Attributes::from_iter([(Attribute::Metadata("made-by".into()), "hand")]);

    client
        .put_opts(&path, "0123456789".into(), PutOptions::from(metadata))
        .await
        .expect("a put");
    let range = client.get_range(&path, 2..5).await.expect("a range");
    let whole = client.get(&path).await.expect("a get");

    let stored = server.object("folder/a b+c").expect("an object");
    assert_eq!(stored.bytes(), "0123456789");
    assert_eq!(stored.metadata("made-by"), Some("hand"));
    assert_eq!(range, "234");
    assert_eq!(whole.meta.e_tag, Some(format!("\"{}\"", stored.etag())));
    assert_eq!(
        whole.attributes.get(&Attribute::Metadata("made-by".into())),
        Some(&"hand".into())
    );
    assert_eq!(whole.bytes().await.expect("a body"), "0123456789");
    assert_eq!(server.requests("PutObject"), 1);
    assert_eq!(server.requests("GetObject"), 2);
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_refused() {
    let server = S3Server::start();
    let client = client(&server);
    server.put("a", StoredObject::new("abc"));
    let stranger = builder(&server, server.endpoint())
        .with_secret_access_key("wrong")
        .build()
        .expect("a client");
    let lost = builder(&server, server.endpoint())
        .with_bucket_name("nobodys")
        .build()
        .expect("a client");

    let missing = client.get(&Path::from("b")).await;
    let outside = client.get_range(&Path::from("a"), 3..4).await;
    let unsigned = stranger.get(&Path::from("a")).await;
    let nowhere = lost.put(&Path::from("a"), "abc".into()).await;

    assert!(
        matches!(missing, Err(Error::NotFound { .. })),
        "{missing:?}"
    );
    assert!(outside.is_err(), "{outside:?}");
    assert!(
        matches!(unsigned, Err(Error::PermissionDenied { .. })),
        "{unsigned:?}"
    );
    let text = format!("{nowhere:?}");
    assert!(text.contains("NoSuchBucket"), "{text}");
}

#[tokio::test]
async fn conditions_are_kept() {
    let server = S3Server::start();
    let client = client(&server);
    let path = Path::from("a");
    let create = || PutOptions::from(PutMode::Create);

    let first = client.put_opts(&path, "abc".into(), create()).await;
    let second = client.put_opts(&path, "def".into(), create()).await;
    let etag = first.expect("a put").e_tag;
    server.put("a", StoredObject::new("xyz"));
    let changed = GetOptions::new().with_if_match(etag);
    let changed = client.get_opts(&path, changed).await;

    assert!(
        matches!(second, Err(Error::AlreadyExists { .. })),
        "{second:?}"
    );
    assert!(
        matches!(changed, Err(Error::Precondition { .. })),
        "{changed:?}"
    );
}

#[tokio::test]
async fn listings_come_in_small_pages_and_in_order() {
    let server = S3Server::start();
    let client = client(&server);
    for key in ["a/1", "a/2", "a/3/x", "a/3/y", "a/4", "b/1"] {
        server.put(key, StoredObject::new(key.to_owned()));
    }
    server.set_page_max(1);
    let prefix = Path::from("a");
    let (second, long_ago) = (
        Path::from("a/2"),
        SystemTime::UNIX_EPOCH + Duration::from_secs(9),
    );
    server.put("a/4", StoredObject::new("x").modified_at(long_ago));

    let all: Vec<_> = client
        .list(Some(&prefix))
        .try_collect()
        .await
        .expect("a list");
    let requests = server.requests("ListObjectsV2");
    let after = client.list_with_offset(Some(&prefix), &second);
    let after: Vec<_> = after.try_collect().await.expect("a list");
    let level = client
        .list_with_delimiter(Some(&prefix))
        .await
        .expect("a list");

    let keys: Vec<_> = all.iter().map(|meta| meta.location.as_ref()).collect();
    assert_eq!(keys, ["a/1", "a/2", "a/3/x", "a/3/y", "a/4"]);
    assert_eq!(SystemTime::from(all[4].last_modified), long_ago);
    assert_eq!(requests, 5);
    let keys: Vec<_> = after.iter().map(|meta| meta.location.as_ref()).collect();
    assert_eq!(keys, ["a/3/x", "a/3/y", "a/4"]);
    assert_eq!(level.common_prefixes, [Path::from("a/3")]);
    assert_eq!(level.objects.len(), 3);
}

#[tokio::test]
async fn a_multipart_upload_is_open_until_it_is_completed_or_aborted() {
    let server = S3Server::start();
    let client = client(&server);
    let part = Bytes::from(vec![7; 5 << 20]);

    let mut upload = client
        .put_multipart(&Path::from("a"))
        .await
        .expect("an upload");
    upload.put_part(part.clone().into()).await.expect("a part");
    upload.put_part("end".into()).await.expect("a part");
    let open = server.open_uploads();
    let before = server.object("a");
    upload.complete().await.expect("a completion");
    let mut aborted = client
        .put_multipart(&Path::from("b"))
        .await
        .expect("an upload");
    aborted.abort().await.expect("an abort");

    assert_eq!(open.len(), 1);
    assert_eq!(open[0].key, "a");
    assert_eq!(open[0].parts, [(1, 5 << 20), (2, 3)]);
    assert!(before.is_none());
    let whole = server.object("a").expect("an object").bytes();
    assert_eq!(whole, [&part[..], b"end"].concat());
    assert_eq!(server.open_uploads(), []);
    assert_eq!(server.keys(), ["a"]);
}

#[tokio::test]
async fn parts_that_are_too_small_are_refused_unless_the_test_allows_them() {
    let server = S3Server::start();
    let client = client(&server);
    let upload = async || {
        let upload = client
            .put_multipart(&Path::from("a"))
            .await
            .expect("an upload");
        let mut upload = WriteMultipart::new_with_chunk_size(upload, 4);
        upload.write(b"0123456789");
        upload.finish().await
    };

    let refused = upload().await;
    server.set_part_min(1);
    let allowed = upload().await;

    let text = format!("{refused:?}");
    assert!(text.contains("EntityTooSmall"), "{text}");
    allowed.expect("an upload");
    assert_eq!(server.object("a").expect("an object").bytes(), "0123456789");
}

#[tokio::test]
async fn many_objects_are_deleted_at_once() {
    let server = S3Server::start();
    let client = client(&server);
    let keys: Vec<_> = (0..5).map(|number| format!("a/{number}")).collect();
    for key in &keys {
        server.put(key, StoredObject::new("abc"));
    }
    let paths = keys[..4].iter().map(|key| Ok(Path::from(key.as_str())));
    let paths: Vec<_> = paths.collect();

    let deleted = client.delete_stream(futures::stream::iter(paths).boxed());
    let deleted: Vec<_> = deleted.try_collect().await.expect("a deletion");

    assert_eq!(deleted.len(), 4);
    assert_eq!(server.keys(), ["a/4"]);
    assert_eq!(server.requests("DeleteObjects"), 1);
}

#[tokio::test]
async fn an_object_beyond_4_gib_takes_no_memory() {
    let server = S3Server::start();
    let client = client(&server);
    let path = Path::from("a");
    let place = (4 << 30) - 5..(4 << 30) + 5;
    let mut upload = client.put_multipart(&path).await.expect("an upload");
    let part = 8 << 20;

    for number in 0..3 {
        let bytes = pattern(number * part..(number + 1) * part);
        upload.put_part(bytes.into()).await.expect("a part");
    }
    upload.complete().await.expect("a completion");
    let uploaded = client.get_range(&path, part - 5..part + 5).await;
    server.put("b", StoredObject::of_pattern((4 << 30) + 100));
    let beyond = client.get_range(&Path::from("b"), place.clone()).await;

    assert_eq!(uploaded.expect("a range"), pattern(part - 5..part + 5));
    assert_eq!(beyond.expect("a range"), pattern(place));
    assert_eq!(
        server.object("b").expect("an object").size(),
        (4 << 30) + 100
    );
}

#[tokio::test]
async fn what_is_stored_outlives_a_restart() {
    let server = S3Server::start();
    let client = client(&server);
    server.put("a", StoredObject::new("abc"));
    server.leave_upload("b", SystemTime::UNIX_EPOCH);

    server.close();
    let closed = client.get(&Path::from("a")).await;
    server.reopen();
    let open = client.get(&Path::from("a")).await;

    assert!(closed.is_err(), "{closed:?}");
    let body = open.expect("a get").bytes().await.expect("a body");
    assert_eq!(body, "abc");
    assert_eq!(server.open_uploads().len(), 1);
}

#[tokio::test]
async fn a_relay_stands_before_it_without_breaking_signatures() {
    let server = S3Server::start();
    let relay = Scripted::before(server.address());
    let client = builder(&server, relay.endpoint())
        .build()
        .expect("a client");
    relay
        .on(|request| request.path.ends_with("/lost"))
        .alter(|_| Answer::none(End::Reset));
    relay
        .on(|request| request.path.ends_with("/slow"))
        .answer(Answer::s3_error(503, "SlowDown"));

    let passed = client.put(&Path::from("a b"), "abc".into()).await;
    let lost = client.put(&Path::from("lost"), "abc".into()).await;
    let slow = client.put(&Path::from("slow"), "abc".into()).await;

    passed.expect("a put");
    assert!(lost.is_err(), "{lost:?}");
    let text = format!("{slow:?}");
    assert!(text.contains("SlowDown"), "{text}");
    assert_eq!(server.keys(), ["a b", "lost"]);
    assert_eq!(relay.requests()[0].body, "abc");
}

fn client(server: &S3Server) -> AmazonS3 {
    builder(server, server.endpoint())
        .build()
        .expect("a client")
}

fn builder(server: &S3Server, endpoint: String) -> AmazonS3Builder {
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(server.bucket())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        })
}
