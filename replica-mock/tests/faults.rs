//! Each kind of trouble does what its words say, to the calls that its words name.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ErrorKind, FileId, Level, Op, ReplicaClient, ReplicaClientExt, Result, Timestamp,
    Timestamps, Txid,
};
use replica_mock::{MockClient, Outcome, file};
use tokio::time::{Instant, timeout};

const SIZE: usize = 100;
const PAUSE: Duration = Duration::from_secs(3);

/// A client of three files of level 0, of 100 bytes each, that gives chunks of 16.
fn mock() -> MockClient {
    let mock = MockClient::new().with_chunk_size(16);
    for txid in 1..=3 {
        mock.put(raw(txid), Timestamp::EPOCH, content());
    }
    mock
}

fn raw(txid: u64) -> FileId {
    file(0, txid..=txid)
}

fn content() -> Vec<u8> {
    (0..SIZE as u8).collect()
}

async fn read(mock: &MockClient, file: FileId) -> Result<Bytes> {
    mock.read(file, (..).into()).await
}

async fn write(mock: &MockClient, file: FileId) -> Result<()> {
    mock.write(file, Timestamp::EPOCH, content().into())
        .await
        .map(drop)
}

async fn list(mock: &MockClient) -> Vec<Result<FileId>> {
    let listing = mock
        .list(Level::RAW, Txid::FIRST, Timestamps::Exact)
        .await
        .expect("the listing begins");
    listing.map_ok(|info| info.id).collect().await
}

/// What a stream gave before it ended, and the error that it ended in.
async fn drain(mock: &MockClient, file: FileId) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = mock
        .open(file, (..).into())
        .await
        .expect("the file is there");
    let mut read = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => read.extend_from_slice(&chunk),
            Err(error) => {
                assert!(
                    stream.next().await.is_none(),
                    "an error should end the stream"
                );
                return (read, Some(error.kind()));
            }
        }
    }
    (read, None)
}

fn assert_kind<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    assert_eq!(result.expect_err("it should fail").kind(), kind);
}

#[tokio::test]
async fn fail_next_fails_each_operation_once_and_does_nothing() {
    let mock = mock();
    let before = mock.snapshot();
    for op in [Op::List, Op::Open, Op::Write, Op::Delete, Op::DeleteAll] {
        mock.fail_next(op, ErrorKind::PermissionDenied);
    }

    let listed = mock.list(Level::RAW, Txid::FIRST, Timestamps::Fast).await;
    assert_kind(listed.map(drop), ErrorKind::PermissionDenied);
    assert_kind(read(&mock, raw(1)).await, ErrorKind::PermissionDenied);
    assert_kind(write(&mock, raw(9)).await, ErrorKind::PermissionDenied);
    assert_kind(mock.delete(&[raw(1)]).await, ErrorKind::PermissionDenied);
    assert_kind(mock.delete_all().await, ErrorKind::PermissionDenied);

    mock.assert_faults_used();
    assert_eq!(mock.snapshot(), before);
    assert_eq!(read(&mock, raw(1)).await.unwrap(), content());
}

#[tokio::test]
async fn an_error_says_what_failed_where() {
    let mock = mock();
    mock.fail_next(Op::Open, ErrorKind::Unavailable);

    let error = read(&mock, raw(1)).await.unwrap_err();

    assert_eq!(
        error.to_string(),
        "mock: open 0/0000000000000001-0000000000000001.ltx: the mock was told to fail"
    );
}

#[tokio::test]
async fn a_fault_strikes_only_the_files_that_it_names() {
    let mock = mock();
    mock.on(Op::Open).of(raw(2)).fail(ErrorKind::Corrupt);

    assert!(read(&mock, raw(1)).await.is_ok());
    assert_kind(read(&mock, raw(2)).await, ErrorKind::Corrupt);
    assert!(read(&mock, raw(2)).await.is_ok());
}

#[tokio::test]
async fn a_fault_strikes_only_the_level_that_it_names() {
    let mock = mock();
    mock.on(Op::Write)
        .at_level(Level::SNAPSHOT)
        .fail(ErrorKind::Other);
    mock.on(Op::List)
        .at_level(Level::SNAPSHOT)
        .fail(ErrorKind::Other);

    assert!(write(&mock, raw(4)).await.is_ok());
    assert_kind(write(&mock, file(9, 1..=4)).await, ErrorKind::Other);
    assert_eq!(list(&mock).await.len(), 4);
    let listed = mock
        .list(Level::SNAPSHOT, Txid::FIRST, Timestamps::Fast)
        .await;
    assert_kind(listed.map(drop), ErrorKind::Other);
}

#[tokio::test]
async fn skipping_times_and_every_choose_the_calls() {
    let chosen = async |arm: fn(&MockClient)| {
        let mock = mock();
        arm(&mock);
        let mut failed = Vec::new();
        for call in 1..=7 {
            if read(&mock, raw(1)).await.is_err() {
                failed.push(call);
            }
        }
        failed
    };

    assert_eq!(
        chosen(|mock| mock.on(Op::Open).fail(ErrorKind::Other)).await,
        [1]
    );
    assert_eq!(
        chosen(|mock| mock.on(Op::Open).skip(2).times(2).fail(ErrorKind::Other)).await,
        [3, 4]
    );
    assert_eq!(
        chosen(|mock| mock.on(Op::Open).every(3).fail(ErrorKind::Other)).await,
        [3, 6]
    );
    assert_eq!(
        chosen(|mock| mock.on(Op::Open).every(3).times(1).fail(ErrorKind::Other)).await,
        [3]
    );
    assert_eq!(
        chosen(|mock| mock.on(Op::Open).every(2).skip(3).fail(ErrorKind::Other)).await,
        [5, 7]
    );
    let two = |mock: &MockClient| {
        mock.fail_next(Op::Open, ErrorKind::Other);
        mock.fail_next(Op::Open, ErrorKind::Other);
    };
    assert_eq!(chosen(two).await, [1, 2]);
}

#[tokio::test]
async fn a_read_fails_at_the_byte_that_was_named() {
    for at in [0, 1, 15, 16, 17, 99, 100] {
        let mock = mock();
        mock.on(Op::Open).at_byte(at).fail(ErrorKind::Unavailable);

        let (read, error) = drain(&mock, raw(1)).await;

        assert_eq!(read, content()[..at as usize]);
        assert_eq!(error, Some(ErrorKind::Unavailable));
        mock.assert_faults_used();
    }
}

#[tokio::test]
async fn a_fault_beyond_the_end_is_not_used() {
    let mock = mock();
    mock.on(Op::Open)
        .of(raw(1))
        .at_byte(101)
        .fail(ErrorKind::Unavailable);

    assert_eq!(drain(&mock, raw(1)).await, (content(), None));

    assert_eq!(
        mock.unused_faults(),
        [
            "open 0/0000000000000001-0000000000000001.ltx: fail with \"unavailable\" at byte 101 \
          (struck 0 times of 1)"
        ]
    );
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "faults were not used: write: hang (struck 1 times of 2)")]
async fn a_fault_that_struck_too_rarely_is_reported() {
    let mock = mock();
    mock.on(Op::Write).times(2).hang();

    let _ = timeout(PAUSE, write(&mock, raw(1))).await;

    mock.assert_faults_used();
}

#[tokio::test]
async fn a_write_that_fails_within_its_body_leaves_nothing() {
    for at in [0, 1, 50, 100] {
        let mock = mock();
        let before = mock.snapshot();
        mock.on(Op::Write)
            .times(2)
            .at_byte(at)
            .fail(ErrorKind::Unavailable);

        assert_kind(write(&mock, raw(1)).await, ErrorKind::Unavailable);
        assert_kind(write(&mock, raw(9)).await, ErrorKind::Unavailable);

        assert_eq!(mock.snapshot(), before);
        mock.assert_faults_used();
    }
}

#[tokio::test]
async fn a_body_is_read_no_further_than_the_fault() {
    for at in [0, 10, 20, 50, 100] {
        let mock = mock();
        mock.on(Op::Write).at_byte(at).fail(ErrorKind::Unavailable);
        let chunks = stream::iter((0..10).map(|_| Ok(Bytes::from_static(&[7; 10])))).boxed();

        let body = Body::once(100, chunks);
        let written = mock.write(raw(9), Timestamp::EPOCH, body).await;

        assert_kind(written, ErrorKind::Unavailable);
        assert_eq!(mock.calls()[0].bytes, at);
    }
}

#[tokio::test]
async fn what_was_applied_stays_though_the_caller_sees_an_error() {
    let mock = mock();
    for op in [Op::Write, Op::Delete] {
        mock.on(op).after_applying().fail(ErrorKind::Unavailable);
    }

    assert_kind(write(&mock, raw(9)).await, ErrorKind::Unavailable);
    assert_eq!(mock.content(raw(9)).unwrap(), content());
    assert_kind(mock.delete(&[raw(9)]).await, ErrorKind::Unavailable);
    assert_eq!(mock.content(raw(9)), None);

    mock.on(Op::DeleteAll)
        .after_applying()
        .fail(ErrorKind::Unavailable);
    assert_kind(mock.delete_all().await, ErrorKind::Unavailable);
    assert!(mock.files().is_empty());
    mock.assert_faults_used();
}

#[tokio::test]
async fn a_short_body_ends_without_an_error() {
    for bytes in [0, 1, 16, 99] {
        let mock = mock();
        mock.on(Op::Open).short_body(bytes);

        assert_eq!(
            drain(&mock, raw(1)).await,
            (content()[..bytes as usize].to_vec(), None)
        );
        mock.assert_faults_used();
    }
}

#[tokio::test]
async fn a_short_write_keeps_the_beginning_and_says_that_all_is_well() {
    let mock = mock();
    mock.on(Op::Write).short_body(40);

    let info = mock
        .write(raw(1), Timestamp::EPOCH, content().into())
        .await
        .unwrap();

    assert_eq!(info.size, 100);
    assert_eq!(mock.content(raw(1)).unwrap(), content()[..40]);
    mock.assert_faults_used();
}

#[tokio::test]
async fn a_flipped_byte_differs_alone() {
    let mock = mock();
    let mut damaged = content();
    damaged[33] = !damaged[33];

    mock.on(Op::Open).flip_byte(33);
    assert_eq!(drain(&mock, raw(1)).await, (damaged.clone(), None));
    assert_eq!(drain(&mock, raw(1)).await, (content(), None));
    mock.on(Op::Write).flip_byte(33);
    write(&mock, raw(1)).await.unwrap();
    assert_eq!(mock.content(raw(1)).unwrap(), damaged);
    mock.corrupt(raw(1), 33);
    assert_eq!(mock.content(raw(1)).unwrap(), content());
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_delay_takes_as_long_as_it_says() {
    let mock = mock();
    mock.on(Op::Open).delay(PAUSE);
    mock.on(Op::Open).at_byte(50).delay(PAUSE);
    mock.on(Op::Write).after_applying().delay(PAUSE);
    let start = Instant::now();

    drop(mock.open(raw(1), (..).into()).await.unwrap());
    assert_eq!(start.elapsed(), PAUSE);
    assert_eq!(drain(&mock, raw(1)).await, (content(), None));
    assert_eq!(start.elapsed(), 2 * PAUSE);
    write(&mock, raw(9)).await.unwrap();
    assert_eq!(start.elapsed(), 3 * PAUSE);

    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_can_be_dropped() {
    let mock = mock();
    mock.on(Op::Write).at_byte(1).hang();
    mock.on(Op::Open).at_byte(50).hang();

    assert!(timeout(PAUSE, write(&mock, raw(9))).await.is_err());
    let mut stream = mock.open(raw(1), (..).into()).await.unwrap();
    let mut read = 0;
    while let Ok(chunk) = timeout(PAUSE, stream.try_next()).await {
        read += chunk.unwrap().expect("it hangs before the end").len();
    }
    drop(stream);

    assert_eq!(read, 50);
    assert_eq!(mock.content(raw(9)), None);
    assert_eq!(mock.running(), 0);
    let outcomes: Vec<_> = mock.calls().iter().map(|call| call.outcome).collect();
    assert_eq!(outcomes, [Outcome::Dropped, Outcome::Dropped]);
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_dripping_call_pauses_before_every_piece() {
    let mock = mock();
    for op in [Op::Open, Op::Write, Op::List] {
        mock.on(op).drip(PAUSE);
    }

    let start = Instant::now();
    drain(&mock, raw(1)).await;
    assert_eq!(start.elapsed(), 8 * PAUSE, "seven chunks and the end");
    let start = Instant::now();
    write(&mock, raw(1)).await.unwrap();
    assert_eq!(start.elapsed(), 2 * PAUSE, "one chunk and the end");
    let start = Instant::now();
    assert_eq!(list(&mock).await.len(), 3);
    assert_eq!(start.elapsed(), 4 * PAUSE, "three files and the end");

    mock.assert_faults_used();
}

#[tokio::test]
async fn a_listing_fails_at_the_item_that_was_named() {
    for at in 0..=3 {
        let mock = mock();
        mock.on(Op::List).at_item(at).fail(ErrorKind::Unavailable);

        let items = list(&mock).await;

        assert_eq!(items.len(), at as usize + 1);
        assert!(items[..at as usize].iter().all(Result::is_ok));
        assert!(items[at as usize].is_err());
        mock.assert_faults_used();
    }
}

#[tokio::test]
async fn a_delete_fails_for_the_named_files_alone() {
    let mock = mock();
    mock.on(Op::Delete)
        .of_files([raw(1), raw(3)])
        .fail(ErrorKind::Unavailable);

    let error = mock.delete(&[raw(1), raw(2), raw(3)]).await.unwrap_err();

    assert_eq!(error.files(), [raw(1), raw(3)]);
    assert_eq!(mock.files(), [raw(1), raw(3)]);
    mock.delete(&[raw(1), raw(3)]).await.unwrap();
    assert!(mock.files().is_empty());
}

#[tokio::test]
async fn a_delete_that_fails_for_no_named_file_fails_for_all() {
    let mock = mock();
    mock.fail_next(Op::Delete, ErrorKind::Unavailable);

    let error = mock.delete(&[raw(1), raw(2)]).await.unwrap_err();

    assert_eq!(error.files(), [raw(1), raw(2)]);
    assert_eq!(mock.files().len(), 3);
}

#[tokio::test]
async fn faults_can_be_taken_back() {
    let mock = mock();
    mock.on(Op::Open).every(1).fail(ErrorKind::Unavailable);
    assert!(read(&mock, raw(1)).await.is_err());

    mock.clear_faults();

    assert!(read(&mock, raw(1)).await.is_ok());
    mock.assert_faults_used();
}

#[tokio::test]
async fn a_clone_shares_the_faults_and_a_second_client_does_not() {
    let mock = mock();
    let (clone, second) = (mock.clone(), mock.second());
    mock.on(Op::Open).times(2).fail(ErrorKind::Unavailable);

    assert!(read(&second, raw(1)).await.is_ok());
    assert!(read(&clone, raw(1)).await.is_err());
    assert!(read(&mock, raw(1)).await.is_err());

    assert_eq!(
        (
            mock.count(Op::Open),
            clone.count(Op::Open),
            second.count(Op::Open)
        ),
        (2, 2, 1)
    );
}

#[tokio::test]
#[should_panic(expected = "open carries out nothing that a fault could come after")]
async fn a_fault_that_makes_no_sense_is_refused() {
    mock().on(Op::Open).after_applying().fail(ErrorKind::Other);
}
