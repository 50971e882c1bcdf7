//! What is not stored as it was written is found, whoever is to blame, and nobody else's is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use futures::{StreamExt, stream};
use replica_core::{
    Body, ErrorKind, FileId, Op, ReplicaClient, ReplicaClientExt, Result, Timestamp,
};
use replica_layers::{Backoff, Retry, Verify};
use replica_mock::{MockClient, file};
use tokio::time::timeout;

fn raw(txid: u64) -> FileId {
    file(0, txid..=txid)
}

fn content() -> Bytes {
    (0..100).collect::<Vec<u8>>().into()
}

fn chunks() -> impl Iterator<Item = Result<Bytes>> {
    let content = content();
    (0..10).map(move |n| Ok(content.slice(n * 10..(n + 1) * 10)))
}

/// A body of each kind, all with the same bytes.
fn bodies() -> [Body; 5] {
    let reopen = || async { Ok(stream::iter(chunks()).boxed()) };
    [
        content().into(),
        Body::reopenable(100, reopen),
        Body::reopenable(None, reopen),
        Body::once(100, stream::iter(chunks()).boxed()),
        Body::once(None, stream::iter(chunks()).boxed()),
    ]
}

fn setup() -> (MockClient, Verify<MockClient>) {
    let mock = MockClient::new();
    (mock.clone(), Verify::new(mock))
}

async fn write(client: &impl ReplicaClient, body: Body) -> Result<()> {
    client.write(raw(1), Timestamp::EPOCH, body).await.map(drop)
}

#[tokio::test]
async fn what_is_stored_as_it_was_written_passes_and_is_read_once() {
    for body in bodies() {
        let (mock, verify) = setup();

        write(&verify, body).await.unwrap();

        assert_eq!(mock.content(raw(1)).unwrap(), content());
        assert_eq!(mock.count(Op::Open), 1);
    }
    let (_, verify) = setup();
    write(&verify, Bytes::new().into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_sent_twice_is_compared_with_its_last_sending() {
    let [_, sized, unsized_, ..] = bodies();
    for body in [sized, unsized_] {
        let mock = MockClient::new();
        mock.on(Op::Write).at_byte(50).fail(ErrorKind::Unavailable);
        let verify = Verify::new(Retry::new(mock.clone(), Backoff::default()));

        write(&verify, body).await.unwrap();

        mock.assert_faults_used();
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_the_file_deleted() {
    for body in bodies() {
        let (mock, verify) = setup();
        mock.on(Op::Write).flip_byte(99);

        let error = write(&verify, body).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(
            error.to_string(),
            "mock: write 0/0000000000000001-0000000000000001.ltx: the 100 bytes that were read \
             back are not those that were written; the file was deleted"
        );
        assert_eq!(mock.files(), []);
    }
}

#[tokio::test]
async fn a_missing_end_is_found() {
    for (body, kept) in bodies().into_iter().zip([0, 1, 50, 98, 99]) {
        let (mock, verify) = setup();
        mock.on(Op::Write).short_body(kept);

        let error = write(&verify, body).await.unwrap_err();

        let found = format!("100 bytes were sent, 100 said to be written, and {kept} read back");
        assert!(error.message().starts_with(&found), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(mock.files(), []);
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_found() {
    let (mock, verify) = setup();
    mock.on(Op::Open).every(1).fail(ErrorKind::NotFound);

    let error = write(&verify, content().into()).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error
            .message()
            .starts_with("100 bytes were written, and there is no file"),
        "{error}"
    );
}

#[tokio::test]
async fn damage_on_the_way_back_is_no_damage() {
    let (mock, verify) = setup();
    mock.on(Op::Open).flip_byte(5);

    write(&verify, content().into()).await.unwrap();

    assert_eq!(mock.content(raw(1)).unwrap(), content());
    mock.assert_faults_used();
}

#[tokio::test]
async fn a_damaged_file_that_can_not_be_deleted_is_told_of() {
    let (mock, verify) = setup();
    mock.on(Op::Write).flip_byte(5);
    mock.fail_next(Op::Delete, ErrorKind::PermissionDenied);

    let error = write(&verify, content().into()).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.message().ends_with("the file could not be deleted"),
        "{error}"
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("mock: delete"), "{source}");
}

#[tokio::test]
async fn a_store_that_does_not_read_the_whole_body_is_found() {
    for (number, body) in bodies().into_iter().enumerate().skip(1) {
        let verify = Verify::new(HalfReader(MockClient::new()));

        let error = write(&verify, body).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Corrupt, "body {number}");
        assert!(
            error
                .message()
                .starts_with("the store did not read all of the body"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_write_that_fails_is_not_read_back() {
    let (mock, verify) = setup();
    mock.fail_next(Op::Write, ErrorKind::PermissionDenied);

    let error = write(&verify, content().into()).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(mock.count(Op::Open), 0);
}

#[tokio::test]
async fn a_read_back_that_fails_fails_the_write_and_deletes_nothing() {
    let (mock, verify) = setup();
    mock.on(Op::Open).at_byte(50).fail(ErrorKind::Unavailable);

    let error = write(&verify, content().into()).await.unwrap_err();

    assert!(error.is_transient());
    assert_eq!(mock.files(), [raw(1)]);
}

#[tokio::test(start_paused = true)]
async fn another_writer_of_the_same_file_is_no_damage() {
    for rival_first in [false, true] {
        let (mock, verify) = setup();
        let pause = Duration::from_secs(1);
        mock.on(Op::Write).times(2).after_applying().delay(pause);

        let (one, other) = (
            write(&verify, content().into()),
            write(&verify, vec![7; 50].into()),
        );
        let results = if rival_first {
            join(other, one).await
        } else {
            join(one, other).await
        };

        results.0.unwrap();
        results.1.unwrap();
        assert_eq!(mock.files(), [raw(1)]);
        mock.assert_faults_used();
    }
}

#[tokio::test(start_paused = true)]
async fn the_discard_of_a_damaged_file_spares_what_is_written_after_it() {
    // A write was damaged, and its delete was under way when another write of the same file came
    // and succeeded. Then the delete arrived, and took away the good file.
    let (mock, verify) = setup();
    let pause = Duration::from_secs(1);
    mock.on(Op::Write).flip_byte(5);
    mock.on(Op::Delete).delay(5 * pause);

    let second = async {
        tokio::time::sleep(pause).await;
        write(&verify, content().into()).await
    };
    let both = join(write(&verify, vec![7; 50].into()), second);
    let (first, second) = timeout(100 * pause, both).await.expect("both end");

    assert_eq!(first.unwrap_err().kind(), ErrorKind::Corrupt);
    second.unwrap();
    assert_eq!(mock.content(raw(1)).unwrap(), content());
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_rival_that_fails_or_is_dropped_hides_no_damage() {
    // Any other write of the same file at the same time excused a difference, even one that
    // never changed the file: the damage stayed, and its write had succeeded.
    for dropped in [false, true] {
        let (mock, verify) = setup();
        let pause = Duration::from_secs(1);
        mock.on(Op::Write).flip_byte(5);
        mock.on(Op::Open).delay(pause);
        mock.on(Op::Write).skip(1).fail(ErrorKind::PermissionDenied);

        let rival = async {
            tokio::time::sleep(pause / 2).await;
            let patience = if dropped { pause / 4 } else { 100 * pause };
            timeout(patience, write(&verify, vec![7; 50].into())).await
        };
        let both = join(write(&verify, content().into()), rival);
        let (written, rival) = timeout(100 * pause, both).await.expect("both end");

        assert_eq!(written.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(rival.is_err(), dropped);
        assert_eq!(mock.files(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_may_be_fed_by_the_file_it_replaces() {
    let (mock, verify) = setup();
    mock.put(raw(1), Timestamp::EPOCH, content());
    let verify = Arc::new(verify);
    let source = Arc::clone(&verify);
    let copy = Body::reopenable(100, move || {
        let source = Arc::clone(&source);
        async move { source.open(raw(1), (..).into()).await }
    });

    let written = timeout(Duration::from_secs(1), write(&verify, copy)).await;

    written.expect("it does not wait for itself").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_that_stands_still_holds_up_no_delete_and_no_other_file() {
    let (mock, verify) = setup();
    mock.on(Op::Write).hang();
    let pause = Duration::from_secs(1);

    let hanging = timeout(10 * pause, write(&verify, content().into()));
    let others = async {
        tokio::time::sleep(pause).await;
        verify.delete(&[raw(1), raw(2)]).await?;
        let other = verify.write(raw(2), Timestamp::EPOCH, content().into());
        other.await?;
        verify.delete_all().await
    };
    let (hanging, others) = join(hanging, timeout(pause * 2, others)).await;

    assert!(hanging.is_err());
    others.expect("nobody waits").unwrap();
    // Its turn went with it.
    let next = timeout(pause, write(&verify, content().into())).await;
    next.expect("it has its turn").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delete_of_the_same_file_meanwhile_excuses_no_other_content() {
    let (mock, verify) = setup();
    let pause = Duration::from_secs(1);
    mock.on(Op::Write).flip_byte(5);
    mock.on(Op::Delete).fail(ErrorKind::Unavailable);
    mock.on(Op::Open).delay(pause);

    let delete = async {
        tokio::time::sleep(pause / 2).await;
        verify.delete(&[raw(1)]).await
    };
    let (written, deleted) = join(write(&verify, content().into()), delete).await;

    assert_eq!(written.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(deleted.unwrap_err().is_transient());
}

#[tokio::test(start_paused = true)]
async fn a_delete_of_the_same_file_meanwhile_is_no_damage() {
    for everything in [false, true] {
        let (mock, verify) = setup();
        let pause = Duration::from_secs(1);
        mock.on(Op::Write).after_applying().delay(pause);

        let delete = async {
            tokio::time::sleep(pause / 2).await;
            if everything {
                verify.delete_all().await
            } else {
                verify.delete(&[raw(1)]).await
            }
        };
        let (written, deleted) = join(write(&verify, content().into()), delete).await;

        written.unwrap();
        deleted.unwrap();
        assert_eq!(mock.files(), []);
    }
}

#[tokio::test]
async fn rivals_of_the_past_or_of_other_files_excuse_nothing() {
    let (mock, verify) = setup();
    write(&verify, content().into()).await.unwrap();
    verify.delete(&[raw(1), raw(1)]).await.unwrap();
    verify.delete_all().await.unwrap();
    mock.on(Op::Write).of(raw(1)).flip_byte(5);

    let other = verify.write(raw(2), Timestamp::EPOCH, content().into());
    let (damaged, other) = join(write(&verify, content().into()), other).await;

    assert_eq!(damaged.unwrap_err().kind(), ErrorKind::Corrupt);
    other.unwrap();
    assert_eq!(verify.read(raw(2), (..).into()).await.unwrap(), content());
}

/// A store that takes the first chunk of a body for all of it.
#[derive(Debug)]
struct HalfReader(MockClient);

#[replica_core::async_trait]
impl ReplicaClient for HalfReader {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self) -> replica_core::Capabilities {
        self.0.capabilities()
    }

    async fn list(
        &self,
        level: replica_core::Level,
        from: replica_core::Txid,
        timestamps: replica_core::Timestamps,
    ) -> Result<replica_core::FileStream> {
        self.0.list(level, from, timestamps).await
    }

    async fn open(
        &self,
        file: FileId,
        range: replica_core::ByteRange,
    ) -> Result<replica_core::ByteStream> {
        self.0.open(file, range).await
    }

    async fn write(
        &self,
        file: FileId,
        created_at: Timestamp,
        body: Body,
    ) -> Result<replica_core::FileInfo> {
        let first = body
            .into_stream()
            .next()
            .await
            .expect("a body has a chunk")?;
        self.0.write(file, created_at, first.into()).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.0.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.0.delete_all().await
    }
}
