//! What an error says, and what it leaves.

use replica_core::{ByteRange, Error, ErrorKind, FileId, Level, Op};

use super::{NOON, assert_bytes, assert_error, content, failing_body, file, level, ok, raw, small};
use crate::store::{Client, Store, causes};

/// Ranges that a careless client might answer without asking.
fn ranges() -> [ByteRange; 6] {
    [
        ByteRange::ALL,
        (0..0).into(),
        (0..10).into(),
        (5..5).into(),
        (100..).into(),
        (u64::MAX..).into(),
    ]
}

async fn check_missing(client: &Client, file: FileId, what: &str) {
    for range in ranges() {
        let opened = client.open(file, range).await;
        let error = assert_error(
            opened,
            ErrorKind::NotFound,
            &format!("opening {range} of {what}"),
        );
        assert_eq!(error.files(), [file], "the error should name the file");
    }
}

pub(crate) async fn a_missing_file_is_not_found_at_open(store: Store) {
    let client = store.client().await;
    check_missing(&client, raw(1), "a file of an empty store").await;
    let there = file(Level::RAW, 5, 9);
    client.must_write(there, &content(100, 1)).await;

    check_missing(&client, raw(4), "a file before all others").await;
    check_missing(&client, raw(10), "a file behind all others").await;
    check_missing(&client, file(level(1), 5, 9), "a file of another level").await;
    check_missing(&client, raw(5), "a file of the same min").await;
    check_missing(&client, file(Level::RAW, 5, 0x99), "a file of a longer max").await;
    check_missing(&client, file(Level::RAW, 1, 9), "a file of the same max").await;

    assert!(client.has(there).await);
}

pub(crate) async fn an_error_says_what_failed_and_no_secret(store: Store) {
    let client = store.client().await;
    let there = raw(1);
    let body = content(1_000, 1);
    client.must_write(there, &body).await;
    let broken = failing_body(&body, 500, ErrorKind::Other);
    let errors = [
        (
            assert_error(
                client.open(raw(2), ByteRange::ALL).await,
                ErrorKind::NotFound,
                "opening a missing file",
            ),
            Op::Open,
            raw(2),
        ),
        (
            assert_error(
                client.open(there, (1_001..).into()).await,
                ErrorKind::Invalid,
                "opening beyond the end",
            ),
            Op::Open,
            there,
        ),
        (
            assert_error(
                client.write(raw(3), NOON, broken).await,
                ErrorKind::Other,
                "writing a body that fails",
            ),
            Op::Write,
            raw(3),
        ),
    ];

    for (error, op, file) in &errors {
        assert_eq!(error.op(), Some(*op), "the operation of {error}");
        assert_eq!(
            error.scheme(),
            Some(client.scheme()),
            "the scheme of {error}"
        );
        assert_eq!(error.files(), [*file], "the files of {error}");
        let text = error.to_string();
        assert!(
            text.contains(&file.to_string()),
            "{text:?} does not name {file}"
        );
        assert!(!text.contains('\n'), "{text:?} has more than one line");
    }
    for text in errors
        .iter()
        .flat_map(|(error, ..)| texts(error))
        .chain([format!("{client:?}")])
    {
        assert!(!text.is_empty(), "a text is empty");
        for secret in store.secrets() {
            assert!(
                !text.contains(secret),
                "a secret is told by an error or by Debug"
            );
        }
    }
}

/// Everything that can be printed of an error.
fn texts(error: &Error) -> Vec<String> {
    let mut texts = vec![error.to_string(), format!("{error:?}")];
    for cause in causes(error) {
        texts.extend([cause.to_string(), format!("{cause:?}")]);
    }
    texts
}

pub(crate) async fn the_next_call_works_after_an_error(store: Store) {
    let client = store.client().await;
    let body = content(1_000, 1);
    client.must_write(raw(1), &body).await;

    for _ in 0..20 {
        let missing = client.open(raw(2), ByteRange::ALL).await;
        assert_error(missing, ErrorKind::NotFound, "opening a missing file");
        assert_bytes(&client.must_read(raw(1), ..).await, &body, "after NotFound");

        let beyond = client.open(raw(1), (1_001..).into()).await;
        assert_error(beyond, ErrorKind::Invalid, "opening beyond the end");
        assert_eq!(client.names(Level::RAW).await, [raw(1)], "after Invalid");

        for kind in [ErrorKind::Unavailable, ErrorKind::Other] {
            let broken = failing_body(&body, 500, kind);
            assert_error(
                client.write(raw(2), NOON, broken).await,
                kind,
                "a broken body",
            );
            client.must_write(raw(3), &small(raw(3))).await;
            client.must_delete(&[raw(3)]).await;
        }
    }
    let opened = ok(
        client.open(raw(1), (5..).into()).await,
        "opening at the end of it all",
    );
    drop(opened);
}
