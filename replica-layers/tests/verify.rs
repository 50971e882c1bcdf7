//! What is not stored as it was written is found, whoever is to blame, and nobody else's is.

use bytes::Bytes;
use futures::future::join;
use futures::{StreamExt, stream};
use replica_core::{
    Body, ErrorKind, FileId, Op, ReplicaClient, ReplicaClientExt, Result, Timestamp,
};
use replica_layers::{Backoff, Retry, Verify};
use replica_mock::{MockClient, file};

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
        let pause = std::time::Duration::from_secs(1);
        // Both have written before either reads back.
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
async fn a_delete_of_the_same_file_meanwhile_is_no_damage() {
    for everything in [false, true] {
        let (mock, verify) = setup();
        let pause = std::time::Duration::from_secs(1);
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
