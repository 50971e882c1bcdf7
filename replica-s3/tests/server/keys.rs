//! What lies where in the bucket, and what a listing makes of it.

use std::fs;
use std::path::Path;

use replica_core::Layout;
use serde_json::Value;

use super::*;

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
            Some(NOON_TEXT),
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

/// TIM-04, K10.
#[tokio::test]
async fn exact_times_are_asked_for_a_few_at_a_time() {
    let (server, relay, _) = relayed();
    for txid in 1..=1000 {
        let object = StoredObject::new("x").with_metadata("litestream-timestamp", NOON_TEXT);
        server.put(&format!("db/0000/{}", name(txid)), object);
    }
    let config = config(&server, &relay.endpoint());
    let client = S3Client::new(config.heads_in_flight(NonZeroUsize::new(4).unwrap())).unwrap();
    let begun = Instant::now();

    let listed = names(&client, Timestamps::Exact).await.unwrap();

    let took = begun.elapsed();
    assert_eq!(listed.len(), 1000);
    assert!(listed.iter().all(|info| info.created_at == NOON));
    let requests = relay.requests();
    let heads = requests.iter().filter(|request| request.method == "HEAD");
    let in_flight: Vec<_> = heads.map(|request| request.in_flight).collect();
    assert_eq!(in_flight.len(), 1000);
    assert_eq!(in_flight.iter().max(), Some(&4));
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// CTR-07, K1: replicas that the real Litestream wrote.
#[tokio::test]
async fn a_replica_of_litestreams_is_listed_and_read_as_it_was_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ltx/tests/golden");
    let manifest = fs::read(golden.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    for (set, facts) in manifest["sets"].as_object().unwrap() {
        let server = S3Server::start();
        let mut expected = Vec::new();
        for (path, file) in facts["files"].as_object().unwrap() {
            let id = Layout::Tree.parse(path).unwrap();
            let (level, name) = (id.level.get(), path.rsplit('/').next().unwrap());
            let bytes = fs::read(golden.join(set).join("replica").join(path)).unwrap();
            let millis = file["mtime_ms"].as_i64().unwrap();
            let time = jiff::Timestamp::from_millisecond(millis).unwrap();
            let object = StoredObject::new(bytes.clone())
                .with_metadata("litestream-timestamp", &time.to_string());
            server.put(&format!("db/{level:04x}/{name}"), object);
            expected.push((id, Timestamp::from_millis(millis), bytes));
        }
        expected.sort_unstable_by_key(|(id, ..)| *id);
        let client = client(&server);

        let mut found = Vec::new();
        for level in Level::ALL {
            let files = client.list_all(level, Txid::FIRST, Timestamps::Exact);
            for info in files.await.unwrap() {
                let read = client.read(info.id, (..).into()).await.unwrap();
                assert_eq!(read.len() as u64, info.size);
                found.push((info.id, info.created_at, read.to_vec()));
            }
        }

        assert!(found == expected, "{set}");
    }
}
