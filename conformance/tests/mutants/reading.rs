//! Mutants that read wrongly.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    ByteRange, ByteStream, Error, ErrorKind, FileId, Op, ReplicaClient, Result, async_trait,
};
use replica_mock::MockClient;

use crate::{Bug, SECRET, chunks, lock, mutants, part};

/// Reads wrongly: gets all of a file and the range, and gives what it gives.
struct Reads(fn(Bytes, ByteRange) -> Result<Bytes>);

#[async_trait]
impl Bug for Reads {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let whole = part(mock, file, ByteRange::ALL)?;
        let read = (self.0)(whole, range);
        read.map(chunks)
            .map_err(|error| error.of(file).during(Op::Open, mock.scheme()))
    }
}

fn cut(whole: Bytes, range: ByteRange) -> Result<Bytes> {
    let range = range.resolve(whole.len() as u64)?;
    Ok(whole.slice(range.start as usize..range.end as usize))
}

fn invalid<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Invalid, "no such range"))
}

const MIB: u64 = 1 << 20;

mutants! {
    a_short_body_is_ok: Reads(|whole, range| {
        let part = cut(whole, range)?;
        Ok(part.slice(..part.len().min(65_000)))
    }) => [
        "range::the_whole_file_is_read",
        "contract::what_is_written_is_read_back",
        "write::nothing_is_visible_before_the_end",
    ];
    the_offset_is_ignored: Reads(|whole, range| {
        let len = cut(whole.clone(), range)?.len();
        Ok(whole.slice(..len))
    }) => ["range::from_an_offset_to_the_end", "range::the_tail_is_found"];
    a_range_is_one_byte_too_long: Reads(|whole, range| {
        let range = range.resolve(whole.len() as u64)?;
        Ok(whole.slice(range.start as usize..whole.len().min(range.end as usize + 1)))
    }) => ["range::exactly_the_bytes_asked_for", "model::any_calls_do_what_the_model_does"];
    a_range_is_one_byte_too_short: Reads(|whole, range| {
        let cut = cut(whole.clone(), range)?;
        let is_inner = range.start() + (cut.len() as u64) < whole.len() as u64;
        Ok(cut.slice(..cut.len() - usize::from(is_inner && !cut.is_empty())))
    }) => ["range::exactly_the_bytes_asked_for", "range::random_ranges_match_an_oracle"];
    an_end_beyond_the_file_is_refused: Reads(|whole, range| match range.end() {
        Some(end) if end > whole.len() as u64 => invalid(),
        _ => cut(whole, range),
    }) => ["range::a_range_is_cut_at_the_end"];
    an_end_is_added_in_32_bits: Reads(|whole, range| match range.end() {
        Some(end) => cut(whole, (range.start()..u64::from(end as u32)).into()),
        None => cut(whole, range),
    }) => ["range::a_range_is_cut_at_the_end"];
    a_start_at_the_end_is_refused: Reads(|whole, range| match range.start() {
        start if start >= whole.len() as u64 => invalid(),
        _ => cut(whole, range),
    }) => ["range::at_the_end_is_empty", "contract::an_empty_file_is_a_file"];
    beyond_the_end_is_empty: Reads(|whole, range| match range.start() {
        start if start > whole.len() as u64 => Ok(Bytes::new()),
        _ => cut(whole, range),
    }) => ["range::beyond_the_end_is_invalid", "errors::the_next_call_works_after_an_error"];
    beyond_the_end_is_not_found: Reads(|whole, range| {
        let beyond = |_| Error::new(ErrorKind::NotFound, "no such range");
        cut(whole, range).map_err(beyond)
    }) => ["range::beyond_the_end_is_invalid"];
    beyond_the_end_panics: Reads(|whole, range| {
        let end = range.end().map_or(whole.len(), |end| whole.len().min(end as usize));
        Ok(whole.slice(range.start() as usize..end))
    }) => ["range::beyond_the_end_is_invalid"];
    an_empty_range_beyond_the_end_is_not_looked_at: Reads(|whole, range| match range.end() {
        Some(end) if end == range.start() => Ok(Bytes::new()),
        _ => cut(whole, range),
    }) => ["range::beyond_the_end_is_invalid"];
    length_zero_means_the_rest: Reads(|whole, range| match range.end() {
        Some(end) if end == range.start() => cut(whole, (range.start()..).into()),
        _ => cut(whole, range),
    }) => ["range::length_zero_is_empty", "model::any_calls_do_what_the_model_does"];
    length_zero_is_refused: Reads(|whole, range| match range.end() {
        Some(end) if end == range.start() => invalid(),
        _ => cut(whole, range),
    }) => ["range::length_zero_is_empty"];
    a_byte_is_lost_between_two_parts: Reads(|whole, range| {
        let range = range.resolve(whole.len() as u64)?;
        let boundary = 5 * MIB;
        let part = whole.slice(range.start as usize..range.end as usize);
        if range.start < boundary && boundary < range.end {
            let lost = (boundary - range.start) as usize;
            return Ok([&part[..lost], &part[lost + 1..]].concat().into());
        }
        Ok(part)
    }) => ["range::ranges_across_part_boundaries", "big::sizes_around_a_part"];
    a_retry_repeats_a_chunk: Reads(|whole, range| {
        let part = cut(whole, range)?;
        let again = part.len().min(32_768);
        Ok([&part[..again], &part[again / 2..]].concat().into())
    }) => ["range::the_whole_file_is_read", "range::random_ranges_match_an_oracle"];
    missing_is_found_out_on_the_first_read: LateMissing => [
        "errors::a_missing_file_is_not_found_at_open",
        "consistency::a_miss_is_not_remembered",
    ];
    an_empty_range_of_a_missing_file_is_empty: LazyEmpty => [
        "errors::a_missing_file_is_not_found_at_open",
    ];
    missing_is_another_error: MissingIs(ErrorKind::Other) => [
        "errors::a_missing_file_is_not_found_at_open",
        "delete::missing_files_are_fine",
    ];
    opening_makes_a_file: OpeningMakes => [
        "contract::a_checked_write_refuses_what_is_no_ltx_file",
        "errors::a_missing_file_is_not_found_at_open",
    ];
    errors_name_nothing: ErrorsAre(|error| Error::new(error.kind(), "it failed")) => [
        "errors::an_error_says_what_failed_and_no_secret",
    ];
    secrets_are_in_errors: ErrorsAre(|error| {
        error.with_source(format!("GET https://user:{SECRET}@store/ failed"))
    }) => ["errors::an_error_says_what_failed_and_no_secret"];
    secrets_are_in_debug: SecretInDebug => ["errors::an_error_says_what_failed_and_no_secret"];
    misses_are_remembered: RemembersMisses::default() => ["consistency::a_miss_is_not_remembered"];
    reads_are_cached: RemembersReads::default() => [
        "consistency::an_overwritten_file_is_never_read_old",
        "write::a_shorter_file_leaves_no_tail",
        "linear::reads_see_the_last_write",
        "linear::a_saved_history_gets_the_same_verdict",
    ];
    a_stream_follows_the_file: FollowsTheFile => [
        "concurrency::an_open_stream_never_mixes_versions",
        "concurrency::readers_during_overwrites",
        "concurrency::readers_during_deletes",
    ];
    a_slow_reader_is_cut: CutsSlowReaders => ["write::a_slow_body_is_not_cut"];
    an_error_breaks_the_client: BreaksAfterErrors::default() => [
        "errors::the_next_call_works_after_an_error",
    ];
    a_part_costs_the_whole: ReadsAll => ["big::a_small_range_costs_little"];
    a_call_blocks_its_thread: BlocksItsThread => ["cancel::a_time_limit_is_kept"];
}

struct LateMissing;

#[async_trait]
impl Bug for LateMissing {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        match mock.open(file, range).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(stream::iter([Err(error)]).boxed())
            }
            result => result,
        }
    }
}

struct LazyEmpty;

#[async_trait]
impl Bug for LazyEmpty {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        if range.end() == Some(range.start()) && mock.content(file).is_none() {
            return Ok(stream::empty().boxed());
        }
        mock.open(file, range).await
    }
}

struct MissingIs(ErrorKind);

#[async_trait]
impl Bug for MissingIs {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let other = |_| Error::new(self.0, "no such file").of(file);
        mock.open(file, range).await.map_err(other)
    }
}

struct OpeningMakes;

#[async_trait]
impl Bug for OpeningMakes {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        if mock.content(file).is_none() {
            mock.put(file, replica_core::Timestamp::EPOCH, Bytes::new());
        }
        mock.open(file, range).await
    }
}

struct ErrorsAre(fn(Error) -> Error);

#[async_trait]
impl Bug for ErrorsAre {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        mock.open(file, range).await.map_err(self.0)
    }
}

struct SecretInDebug;

impl Bug for SecretInDebug {
    fn debug(&self) -> String {
        format!("Broken {{ user: \"me\", password: {SECRET:?} }}")
    }
}

#[derive(Default)]
struct RemembersMisses(Mutex<HashSet<FileId>>);

#[async_trait]
impl Bug for RemembersMisses {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        if lock(&self.0).contains(&file) {
            return Err(Error::new(ErrorKind::NotFound, "no such file").of(file));
        }
        let result = mock.open(file, range).await;
        if result
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound)
        {
            lock(&self.0).insert(file);
        }
        result
    }
}

#[derive(Default)]
struct RemembersReads(Mutex<HashMap<FileId, Bytes>>);

#[async_trait]
impl Bug for RemembersReads {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let whole = part(mock, file, ByteRange::ALL)?;
        let known = lock(&self.0).entry(file).or_insert(whole).clone();
        cut(known, range)
            .map(chunks)
            .map_err(|error| error.of(file))
    }
}

struct FollowsTheFile;

#[async_trait]
impl Bug for FollowsTheFile {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let size = part(mock, file, ByteRange::ALL)?.len() as u64;
        let range = range.resolve(size)?;
        let mock = mock.clone();
        Ok(stream::unfold(range.start, move |at| {
            let mock = mock.clone();
            let end = range.end.min(at + 8192);
            async move {
                tokio::task::yield_now().await;
                let content = mock.content(file)?;
                let part = cut(content, (at..end).into()).ok()?;
                let next = at + part.len() as u64;
                (!part.is_empty()).then_some((Ok(part), next))
            }
        })
        .boxed())
    }
}

struct CutsSlowReaders;

#[async_trait]
impl Bug for CutsSlowReaders {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let started = tokio::time::Instant::now();
        let late = move || async move { started.elapsed() > Duration::from_millis(50) };
        let reading = mock
            .clone()
            .with_chunk_size(1_000)
            .open(file, range)
            .await?;
        Ok(reading
            .then(move |chunk| async move {
                if late().await {
                    return Err(Error::new(ErrorKind::Unavailable, "too slow"));
                }
                chunk
            })
            .boxed())
    }
}

#[derive(Default)]
struct BreaksAfterErrors(Mutex<u32>);

#[async_trait]
impl Bug for BreaksAfterErrors {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        if *lock(&self.0) > 3 {
            return Err(Error::new(ErrorKind::Unavailable, "the session is lost"));
        }
        let result = mock.open(file, range).await;
        *lock(&self.0) += u32::from(result.is_err());
        result
    }
}

struct ReadsAll;

#[async_trait]
impl Bug for ReadsAll {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let mut whole = BytesMut::new();
        let mut reading = mock.open(file, ByteRange::ALL).await?;
        while let Some(chunk) = reading.try_next().await? {
            whole.extend_from_slice(&chunk);
        }
        cut(whole.freeze(), range)
            .map(chunks)
            .map_err(|error| error.of(file))
    }
}

struct BlocksItsThread;

#[async_trait]
impl Bug for BlocksItsThread {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        // The clock is paused, but this is the thread's own time.
        std::thread::sleep(Duration::from_millis(1_100));
        mock.open(file, range).await
    }
}
