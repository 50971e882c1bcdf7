//! What is tried again, how often, and that a broken stream goes on as if it had not been.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, Op, ReplicaClient, ReplicaClientExt, Result, Timestamp, Timestamps, Txid,
};
use replica_layers::{Backoff, Resume, Retry};
use replica_mock::{MockClient, Outcome, Request, file};
use tokio::time::{Instant, timeout};

const TRANSIENT: ErrorKind = ErrorKind::Unavailable;
const OPS: [Op; 5] = [Op::List, Op::Open, Op::Write, Op::Delete, Op::DeleteAll];

fn raw(txid: u64) -> FileId {
    file(0, txid..=txid)
}

fn content() -> Bytes {
    (0..100).collect::<Vec<u8>>().into()
}

/// A client of one file of a hundred bytes, in chunks of sixteen, and a retry of it.
fn setup() -> (MockClient, Retry<MockClient>) {
    setup_with(Backoff::default())
}

fn setup_with(backoff: Backoff) -> (MockClient, Retry<MockClient>) {
    let mock = MockClient::new().with_chunk_size(16);
    mock.put(raw(1), Timestamp::EPOCH, content());
    let retry = Retry::new(mock.clone(), backoff);
    (mock, retry)
}

fn attempts(attempts: u32) -> Backoff {
    Backoff {
        attempts: NonZeroU32::new(attempts).expect("the tests try at least once"),
        ..Backoff::default()
    }
}

fn opened_ranges(mock: &MockClient) -> Vec<ByteRange> {
    let calls = mock.calls().into_iter();
    calls
        .filter_map(|call| match call.request {
            Request::Open { range, .. } => Some(range),
            _ => None,
        })
        .collect()
}

/// What each of [`OPS`] fails with.
async fn failures(retry: &Retry<MockClient>) -> [Error; 5] {
    let list = retry.list(Level::RAW, Txid::FIRST, Timestamps::Fast).await;
    let open = retry.open(raw(1), (..).into()).await;
    let write = retry.write(raw(1), Timestamp::EPOCH, content().into());
    let errors = [
        list.err(),
        open.err(),
        write.await.err(),
        retry.delete(&[raw(1)]).await.err(),
        retry.delete_all().await.err(),
    ];
    errors.map(|error| error.expect("each call should fail"))
}

/// What a stream gave, and the error that it ended in.
async fn drain(stream: Result<ByteStream>) -> (Vec<u8>, Option<Error>) {
    let mut read = Vec::new();
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => return (read, Some(error)),
    };
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                read.extend_from_slice(&chunk);
                assert!(read.len() < 1000, "no file of these tests is that long");
            }
            Err(error) => {
                assert!(
                    stream.next().await.is_none(),
                    "an error should end the stream"
                );
                return (read, Some(error));
            }
        }
    }
    (read, None)
}

#[tokio::test(start_paused = true)]
async fn every_call_survives_transient_errors() {
    let (mock, retry) = setup();
    for op in OPS {
        mock.on(op).times(7).fail(TRANSIENT);
    }

    assert_eq!(
        retry
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(retry.read(raw(1), (..).into()).await.unwrap(), content());
    retry
        .write(raw(2), Timestamp::EPOCH, content().into())
        .await
        .unwrap();
    assert_eq!(mock.content(raw(2)).unwrap(), content());
    retry.delete(&[raw(1)]).await.unwrap();
    assert_eq!(mock.files(), [raw(2)]);
    retry.delete_all().await.unwrap();
    assert_eq!(mock.files(), []);

    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_reply_was_lost_succeeds() {
    let (mock, retry) = setup();
    for op in [Op::Write, Op::Delete, Op::DeleteAll] {
        mock.on(op).after_applying().fail(TRANSIENT);
    }

    let body = content().into();
    let written = retry.write(raw(2), Timestamp::EPOCH, body).await.unwrap();
    assert_eq!((written.size, mock.content(raw(2))), (100, Some(content())));
    retry.delete(&[raw(1)]).await.unwrap();
    assert_eq!(mock.files(), [raw(2)]);
    retry.delete_all().await.unwrap();
    assert_eq!(mock.files(), []);

    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn the_last_error_is_returned_when_the_attempts_are_used_up() {
    let (mock, retry) = setup_with(attempts(3));
    for op in OPS {
        mock.on(op).every(1).fail(TRANSIENT);
    }

    for (error, op) in failures(&retry).await.into_iter().zip(OPS) {
        assert_eq!((error.kind(), error.op()), (TRANSIENT, Some(op)));
        assert_eq!(mock.count(op), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn only_transient_errors_are_tried_again() {
    for kind in [
        ErrorKind::NotFound,
        ErrorKind::PermissionDenied,
        ErrorKind::Invalid,
        ErrorKind::Corrupt,
        ErrorKind::Other,
    ] {
        let (mock, retry) = setup();
        for op in OPS {
            mock.on(op).fail(kind);
        }

        let errors = failures(&retry).await;

        assert_eq!(errors.map(|error| error.kind()), [kind; 5]);
        assert_eq!(mock.calls().len(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_double_within_their_bounds() {
    let backoff = Backoff {
        attempts: NonZeroU32::new(6).unwrap(),
        pause_min: Duration::from_secs(1),
        pause_max: Duration::from_secs(8),
        total: Duration::from_secs(1000),
        seed: None,
    };
    let (mock, retry) = setup_with(backoff);
    mock.on(Op::Write).every(1).fail(TRANSIENT);
    let start = Instant::now();
    let mut starts = Vec::new();

    let mut write = retry.write(raw(1), Timestamp::EPOCH, content().into());
    let tick = Duration::from_millis(1);
    while timeout(tick, &mut write).await.is_err() {
        if mock.count(Op::Write) > starts.len() {
            starts.push(start.elapsed());
        }
    }

    let pauses: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 4, "{pauses:?}");
    for (pause, seconds) in pauses.iter().zip([1, 2, 4, 4, 4]) {
        let shortest = Duration::from_secs(seconds);
        let slack = Duration::from_millis(2);
        assert!(
            *pause + slack >= shortest && *pause <= 2 * shortest + slack,
            "{pauses:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_total() {
    let total = Duration::from_secs(10);
    let backoff = Backoff {
        total,
        ..attempts(u32::MAX)
    };
    let (mock, retry) = setup_with(backoff);
    mock.on(Op::Delete).every(1).fail(TRANSIENT);
    let start = Instant::now();

    let deleted = timeout(2 * total, retry.delete(&[raw(1)])).await;

    assert!(deleted.expect("it gives up").is_err());
    assert!(
        start.elapsed() <= total && start.elapsed() > total / 4,
        "{:?}",
        start.elapsed()
    );
    assert!(mock.count(Op::Delete) > 3);
}

#[tokio::test(start_paused = true)]
async fn a_seed_makes_the_pauses_the_same() {
    let took = async |seed| {
        let (mock, retry) = setup_with(Backoff {
            seed,
            ..Backoff::default()
        });
        mock.on(Op::DeleteAll).times(3).fail(TRANSIENT);
        let start = Instant::now();
        retry.delete_all().await.unwrap();
        start.elapsed()
    };

    assert_eq!(took(Some(7)).await, took(Some(7)).await);
    assert_ne!(took(Some(7)).await, took(Some(8)).await);
    assert_ne!(
        took(None).await,
        took(None).await,
        "processes should not draw the same"
    );
}

#[tokio::test(start_paused = true)]
async fn absurd_settings_do_not_panic() {
    for pause in [Duration::ZERO, Duration::MAX] {
        let backoff = Backoff {
            pause_min: pause,
            pause_max: pause,
            total: pause,
            ..attempts(3)
        };
        let (mock, retry) = setup_with(backoff);
        mock.fail_next(Op::DeleteAll, TRANSIENT);

        let deleted = timeout(Duration::from_secs(1), retry.delete_all()).await;

        assert_eq!(deleted.is_ok(), pause.is_zero());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_can_be_read_once_is_tried_once() {
    let (mock, retry) = setup();
    mock.fail_next(Op::Write, TRANSIENT);
    let body = Body::once(100, stream::once(async { Ok(content()) }).boxed());

    let error = retry
        .write(raw(2), Timestamp::EPOCH, body)
        .await
        .unwrap_err();

    assert!(error.is_transient());
    assert_eq!(mock.count(Op::Write), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_can_be_opened_again_is_sent_again_from_its_start() {
    let (mock, retry) = setup();
    mock.on(Op::Write).at_byte(50).fail(TRANSIENT);
    let body = Body::reopenable(100, || async {
        let content = content();
        let chunks = (0..10).map(move |n| Ok(content.slice(n * 10..(n + 1) * 10)));
        Ok(stream::iter(chunks).boxed())
    });

    retry.write(raw(2), Timestamp::EPOCH, body).await.unwrap();

    assert_eq!(mock.content(raw(2)).unwrap(), content());
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn only_the_files_that_an_error_names_are_deleted_again() {
    let (mock, retry) = setup();
    mock.on(Op::Delete).of(raw(2)).times(2).fail(TRANSIENT);

    retry.delete(&[raw(1), raw(2), raw(3)]).await.unwrap();

    let sent: Vec<_> = mock.calls().into_iter().map(|call| call.request).collect();
    assert_eq!(
        sent,
        [
            Request::Delete {
                files: vec![raw(1), raw(2), raw(3)]
            },
            Request::Delete {
                files: vec![raw(2)]
            },
            Request::Delete {
                files: vec![raw(2)]
            },
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_is_given_up_names_what_is_left() {
    let (mock, retry) = setup_with(attempts(3));
    mock.on(Op::Delete).of(raw(2)).every(1).fail(TRANSIENT);

    let error = retry.delete(&[raw(1), raw(2), raw(3)]).await.unwrap_err();

    assert_eq!(error.files(), [raw(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_is_given_up_without_a_name_names_what_is_left() {
    // The first error named one file, and only that was tried again. The next named none, which
    // was passed on as it was: to the caller it said that all of the files were still there.
    let mock = MockClient::new();
    let retry = Retry::new(VagueAboutOne(mock.clone()), attempts(2));
    mock.on(Op::Delete).of(raw(2)).every(1).fail(TRANSIENT);

    let error = retry.delete(&[raw(1), raw(2), raw(3)]).await.unwrap_err();

    assert_eq!(mock.count(Op::Delete), 2);
    assert_eq!(error.files(), [raw(2)]);
}

/// A client that can't tell which of its files were not deleted when it was asked for one only.
#[derive(Debug)]
struct VagueAboutOne(MockClient);

#[replica_core::async_trait]
impl ReplicaClient for VagueAboutOne {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, times: Timestamps) -> Result<FileStream> {
        self.0.list(level, from, times).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        self.0.open(file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        self.0.write(file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        match self.0.delete(files).await {
            Err(error) if files.len() == 1 => {
                Err(Error::new(error.kind(), error.message().to_owned()))
            }
            result => result,
        }
    }

    async fn delete_all(&self) -> Result<()> {
        self.0.delete_all().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_behind_the_last_file() {
    for broken_at in 0..=6 {
        let mock = MockClient::new();
        let files = [
            file(0, 1..=1),
            file(0, 2..=2),
            file(0, 2..=3),
            file(0, 2..=9),
            file(0, 3..=3),
            file(0, 8..=9),
        ];
        for file in files {
            mock.put(file, Timestamp::EPOCH, content());
        }
        let retry = Retry::new(mock.clone(), Backoff::default());
        mock.on(Op::List).at_item(broken_at).fail(TRANSIENT);
        mock.on(Op::List).skip(1).fail(TRANSIENT);

        let listed = retry
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await
            .unwrap();

        let listed: Vec<_> = listed.into_iter().map(|info| info.id).collect();
        assert_eq!(listed, files);
        mock.assert_faults_used();
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_breaks_again_and_again_ends_in_the_error() {
    let (mock, retry) = setup_with(attempts(3));
    mock.on(Op::List).every(1).at_item(0).fail(TRANSIENT);
    let mut listing = retry
        .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap();

    let error = listing.try_next().await.unwrap_err();

    assert!(error.is_transient() && listing.next().await.is_none());
    assert_eq!(mock.count(Op::List), 3);
}

#[tokio::test(start_paused = true)]
async fn a_long_listing_may_break_more_often_than_there_are_attempts() {
    let mock = MockClient::new();
    for txid in 1..=50 {
        mock.put(raw(txid), Timestamp::EPOCH, content());
    }
    mock.on(Op::List).every(1).at_item(2).fail(TRANSIENT);

    let retry = Retry::new(mock.clone(), attempts(2));
    let listed = retry
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap();

    assert_eq!(listed.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_checked_resumption_reads_from_the_start_and_a_trusting_one_the_rest() {
    for (resume, second) in [
        (Resume::Checked, ByteRange::from(10..90)),
        (Resume::Trusting, ByteRange::from(50..90)),
    ] {
        let (mock, retry) = setup();
        let retry = retry.with_resume(resume);
        mock.on(Op::Open).at_byte(40).fail(TRANSIENT);

        let read = retry.read(raw(1), (10..90).into()).await.unwrap();

        assert_eq!(read, content().slice(10..90));
        assert_eq!(opened_ranges(&mock), [(10..90).into(), second]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_replaced_within_a_break_ends_the_read() {
    let (mock, retry) = setup();
    // The same length and the same time: only the bytes tell.
    let mut other = content().to_vec();
    other[0] = 255;
    mock.on(Op::Open).at_byte(50).fail(TRANSIENT);

    let mut stream = retry.open(raw(1), (..).into()).await.unwrap();
    let first = stream.try_next().await.unwrap().unwrap();
    mock.put(raw(1), Timestamp::EPOCH, other);
    let (rest, error) = drain(Ok(stream)).await;

    let read = [first.to_vec(), rest].concat();
    let error = error.expect("the versions differ");
    assert_eq!(mock.count(Op::Open), 2, "it is no use to try again");
    assert_eq!(read, content()[..50]);
    assert_eq!(error.kind(), TRANSIENT);
    assert_eq!(
        error.to_string(),
        "mock: open 0/0000000000000001-0000000000000001.ltx: \
         the file was replaced while it was being read"
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_that_became_shorter_within_a_break_ends_the_read() {
    for (resume, len) in [
        (Resume::Checked, 5),
        (Resume::Checked, 30),
        (Resume::Trusting, 30),
    ] {
        let (mock, retry) = setup();
        let retry = retry.with_resume(resume);
        mock.on(Op::Open).at_byte(50).fail(TRANSIENT);

        let mut stream = retry.open(raw(1), (10..).into()).await.unwrap();
        stream.try_next().await.unwrap();
        mock.put(raw(1), Timestamp::EPOCH, content().slice(..len));
        let (_, error) = drain(Ok(stream)).await;

        assert_eq!(error.expect("the file is shorter").kind(), TRANSIENT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_deleted_within_a_break_is_not_found() {
    let (mock, retry) = setup();
    mock.on(Op::Open).at_byte(50).fail(TRANSIENT);

    let mut stream = retry.open(raw(1), (..).into()).await.unwrap();
    stream.try_next().await.unwrap();
    mock.remove(raw(1));
    let (_, error) = drain(Ok(stream)).await;

    assert_eq!(error.expect("the file is gone").kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_long_read_may_break_more_often_than_there_are_attempts_where_it_gets_on() {
    let (mock, retry) = setup_with(attempts(2));
    let retry = retry.with_resume(Resume::Trusting);
    mock.on(Op::Open).every(1).at_byte(3).fail(TRANSIENT);

    let (read, error) = drain(retry.open(raw(1), (..).into()).await).await;

    assert!(error.is_none(), "{error:?}");
    assert_eq!(read, content());
}

#[tokio::test(start_paused = true)]
async fn what_checked_resumptions_read_again_is_bounded() {
    const SIZE: u64 = 500;
    let mock = MockClient::new().with_chunk_size(1);
    mock.put(raw(1), Timestamp::EPOCH, vec![7; SIZE as usize]);
    // Each attempt comes one byte further than the one before.
    for at in 1..SIZE {
        mock.on(Op::Open).at_byte(at).fail(TRANSIENT);
    }
    let retry = Retry::new(mock.clone(), attempts(5));

    let (read, error) = drain(retry.open(raw(1), (..).into()).await).await;

    assert!(
        error.is_some(),
        "a byte an attempt is no way to read a file"
    );
    assert!((4..10).contains(&read.len()), "{}", read.len());
}

/// Reads `range` with a break at each of `breaks`, in turn, and the file replaced by another
/// version before the resumption that `replaced_before` numbers.
async fn read_with_breaks(
    resume: Resume,
    versions: &[Vec<u8>],
    range: ByteRange,
    breaks: &[u64],
    replaced_before: Option<usize>,
) -> (Vec<u8>, Option<Error>) {
    let mock = MockClient::new().with_chunk_size(7);
    mock.put(raw(1), Timestamp::EPOCH, versions[0].clone());
    for at in breaks {
        mock.on(Op::Open).at_byte(*at).fail(TRANSIENT);
    }
    let retry = Retry::new(mock.clone(), attempts(100)).with_resume(resume);
    let replace = async {
        let Some(resumption) = replaced_before else {
            return std::future::pending().await;
        };
        // Between the break and the resumption there is a pause.
        loop {
            let calls = mock.calls();
            let broken = calls
                .iter()
                .filter(|call| matches!(call.outcome, Outcome::Failed(_)));
            if broken.count() > resumption {
                mock.put(raw(1), Timestamp::EPOCH, versions[1].clone());
                return std::future::pending().await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        biased;
        () = replace => unreachable!("it never ends"),
        drained = async { drain(retry.open(raw(1), range).await).await } => drained,
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime without I/O").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn broken_reads_give_every_byte(
        size in 0usize..200,
        start in 0u64..200,
        end in 0u64..300,
        breaks in proptest::collection::vec(0u64..220, 0..5),
        resume in prop_oneof![Just(Resume::Checked), Just(Resume::Trusting)],
    ) {
        let content: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let range = ByteRange::from(start.min(size as u64)..end);
        let expected = range.resolve(size as u64).unwrap();

        let (read, error) = block_on(read_with_breaks(resume, std::slice::from_ref(&content), range, &breaks, None));

        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(read, &content[expected.start as usize..expected.end as usize]);
    }

    #[test]
    fn two_versions_never_mix(
        old in proptest::collection::vec(0u8..3, 0..60),
        new in proptest::collection::vec(0u8..3, 0..60),
        start in 0u64..10,
        breaks in proptest::collection::vec(0u64..60, 1..4),
        replaced_before in 0usize..4,
    ) {
        let range = ByteRange::from(start.min(old.len() as u64)..);
        let of = |version: &[u8]| version.get(range.start() as usize..).map(<[u8]>::to_vec);
        let versions = [old, new];

        let (read, error) = block_on(read_with_breaks(
            Resume::Checked, &versions, range, &breaks, Some(replaced_before),
        ));

        match error {
            // All of one version.
            None => prop_assert!(
                versions.iter().any(|version| of(version).as_ref() == Some(&read)),
                "{read:?} of {versions:?}"
            ),
            // Or the beginning of one, and an error.
            Some(error) => {
                // Nothing was given yet, and the new version has no such range.
                let out_of_range = error.kind() == ErrorKind::Invalid && read.is_empty();
                prop_assert!(out_of_range || error.kind() == TRANSIENT, "{error}");
                prop_assert!(
                    versions.iter().filter_map(|version| of(version)).any(|version| version.starts_with(&read)),
                    "{read:?} of {versions:?}"
                );
            }
        }
    }
}

#[test]
fn every_break_and_every_replacement_of_a_small_file_is_survived_or_told() {
    let old: Vec<u8> = (0..20).collect();
    for changed in 0..20 {
        let mut new = old.clone();
        new[changed] = 255;
        for at in 0..=20 {
            let versions = [old.clone(), new.clone()];

            let (read, error) = block_on(read_with_breaks(
                Resume::Checked,
                &versions,
                ByteRange::ALL,
                &[at],
                Some(0),
            ));

            // What was given before the break is the same in both versions, or it is not.
            if at as usize <= changed {
                assert!(error.is_none());
                assert_eq!(read, new);
            } else {
                assert_eq!(error.map(|error| error.kind()), Some(TRANSIENT));
                assert_eq!(read, old[..at as usize]);
            }
        }
    }
}
