//! How files leave the bucket.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};

use super::*;

/// K17.
#[tokio::test]
async fn deleting_all_aborts_the_open_uploads_below_the_root() {
    let server = S3Server::start();
    let client = client(&server);
    server.leave_upload(KEY_1, std::time::SystemTime::UNIX_EPOCH);
    server.leave_upload("db2/x", std::time::SystemTime::UNIX_EPOCH);

    client
        .delete_all()
        .await
        .expect("everything goes, unfinished uploads too");

    let left: Vec<_> = server
        .open_uploads()
        .into_iter()
        .map(|upload| upload.key)
        .collect();
    assert_eq!(left, ["db2/x"]);
}

/// K17: MinIO lists by a prefix the uploads to the key of that name, and by none all that it knows.
#[tokio::test]
async fn open_uploads_are_found_where_a_store_lists_none_by_a_prefix() {
    for (provider, is_found) in [("AWS", false), ("MinIO", true)] {
        let (server, relay, _) = relayed();
        server.set_page_max(2);
        for key in ["a", "db", "db/0000/x", "db/y", "db2/x", "x"] {
            server.leave_upload(key, std::time::SystemTime::UNIX_EPOCH);
        }
        relay
            .on(|request| {
                request.parameter("uploads").is_some() && request.parameter("prefix").is_some()
            })
            .answer(Answer::new(200).body("<ListMultipartUploadsResult/>"));
        let provider = Provider {
            addressing: Addressing::Path,
            ..Provider::named(provider).expect("a known one")
        };
        let config = config(&server, &relay.endpoint()).provider(provider);
        let client = S3Client::new(config).expect("a configuration that makes sense");

        client.delete_all().await.expect("everything goes");

        let uploads = server.open_uploads();
        let left: Vec<_> = uploads.iter().map(|upload| upload.key.as_str()).collect();
        let strangers = ["a", "db", "db2/x", "x"];
        match is_found {
            true => assert_eq!(left, strangers),
            false => assert_eq!(left.len(), 6),
        }
    }
}

/// K17: a store that lists the same pages in a circle is no reason to ask for ever.
#[tokio::test]
async fn a_listing_of_uploads_without_end_is_an_error() {
    let (_server, relay, client) = relayed();
    let asked = std::sync::atomic::AtomicU64::new(0);
    relay
        .on(|request| request.parameter("uploads").is_some())
        .answer_with(move |_| {
            let next = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 2;
            Answer::new(200).body(format!(
                "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
                 <NextKeyMarker>{next}</NextKeyMarker></ListMultipartUploadsResult>"
            ))
        });

    let error = client.delete_all().await.unwrap_err();

    assert!(error.to_string().contains("list the uploads"), "{error}");
    assert_eq!(relay.requests().len(), 100);
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

        client.delete(&files).await.expect("all of them go");

        assert!(server.keys().is_empty());
        let requests = relay.take_requests();
        assert_eq!(requests.len() as u64, count.div_ceil(1000));
        for request in requests {
            let digest = BASE64_STANDARD.encode(Md5::digest(&request.body));
            assert_eq!(request.header("content-md5"), Some(&*digest));
        }
    }
    client.delete(&[]).await.expect("nothing is easily deleted");
    assert!(relay.take_requests().is_empty());
}

/// DEL-05, K16.
#[tokio::test]
async fn a_file_that_could_not_be_deleted_is_named_and_the_others_are_gone() {
    let (server, relay, client) = relayed();
    for txid in 1..=3 {
        write(&client, txid, 1).await.expect("a file to delete");
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
            write(&client, txid, 1).await.expect("a file to delete");
        }
        relay
            .on(|request| request.method == "POST")
            .answer(Answer::s3_error(status, code));

        let several = client.delete(&[raw(1), raw(2)]).await;
        let one = client.delete(&[raw(3)]).await;

        several.expect("they go one by one");
        one.expect("one goes by itself");
        assert!(server.keys().is_empty());
        let requests = relay.requests();
        let batches = requests.iter().filter(|request| request.method == "POST");
        assert_eq!(batches.count(), 1, "a refusal is remembered");
    }
}

/// S3W-02: a batch names its keys in XML.
#[tokio::test]
async fn files_below_a_prefix_that_means_something_in_xml_are_deleted() {
    let server = S3Server::start();
    let config = config(&server, &server.endpoint()).prefix("a&b <c>\"'&amp;]]>é");
    let client = S3Client::new(config).expect("a prefix that is allowed");
    for txid in 1..=3 {
        write(&client, txid, 1).await.expect("a file to delete");
    }

    let deleted = client.delete(&[raw(1), raw(2)]).await;

    deleted.expect("keys are escaped");
    let left = names(&client, Timestamps::Exact)
        .await
        .expect("a listing of what is left");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].id, raw(3));
    assert_eq!(server.keys().len(), 1);
    assert_eq!(server.requests("DeleteObjects"), 1);
}

/// K17: an address means another key by `..`, so that deleting `db/../prod/x` one by one, or an
/// upload to it, deleted `prod/x`.
#[tokio::test]
async fn a_key_that_leads_out_of_the_root_deletes_nothing_else() {
    let stray = "db/../prod/x";
    let (server, relay, client) = relayed();
    server.put("prod/x", StoredObject::new("foreign"));
    let listed = |name: &str, content: &str| {
        Answer::new(200).body(format!(
            "<{name}>{content}<IsTruncated>false</IsTruncated></{name}>"
        ))
    };
    relay
        .on(|request| request.parameter("delete").is_some())
        .answer(Answer::s3_error(501, "NotImplemented"));
    relay
        .on(|request| request.parameter("list-type").is_some())
        .answer(listed(
            "ListBucketResult",
            &format!("<Contents><Key>{stray}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"),
        ));

    let object = client.delete_all().await.unwrap_err();
    relay
        .on(|request| request.parameter("uploads").is_some())
        .answer(listed(
            "ListMultipartUploadsResult",
            &format!("<Upload><Key>{stray}</Key><UploadId>1</UploadId></Upload>"),
        ));
    let upload = client.delete_all().await.unwrap_err();

    for error in [object, upload] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(stray), "{error}");
    }
    assert_eq!(server.keys(), ["prod/x"]);
    let requests = relay.requests();
    assert!(requests.iter().all(|request| request.method != "DELETE"));
}
