//! Mutants that write wrongly, one call at a time.

use std::sync::Mutex;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use replica_core::{
    Body, Capabilities, Error, ErrorKind, FileId, FileInfo, ReplicaClient, Result, Timestamp,
    async_trait,
};
use replica_mock::MockClient;

use crate::{Bug, collect, info, lock, mutants};

/// Writes wrongly: gets what is there and what is to be, and what it gives is kept.
struct Writes(fn(Option<Bytes>, Bytes) -> Bytes);

#[async_trait]
impl Bug for Writes {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let body = collect(body).await?;
        let size = body.len();
        mock.put(file, time, (self.0)(mock.content(file), body));
        Ok(info(file, time, size))
    }
}

/// Keeps and tells another time than it is given, which may depend on whether the file is there.
struct Times {
    kept: fn(Option<Timestamp>, Timestamp) -> Timestamp,
    told: fn(Timestamp) -> Timestamp,
}

#[async_trait]
impl Bug for Times {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let old = mock.snapshot().get(&file).map(|(time, _)| *time);
        let written = mock.write(file, (self.kept)(old, time), body).await?;
        Ok(FileInfo {
            created_at: (self.told)(time),
            ..written
        })
    }
}

/// What is done with a body that fails.
struct FailedBodies(fn(&MockClient, FileId, Bytes, Error) -> Result<()>);

#[async_trait]
impl Bug for FailedBodies {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let mut stream = body.into_stream();
        let mut whole = BytesMut::new();
        loop {
            match stream.try_next().await {
                Ok(Some(chunk)) => whole.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => {
                    (self.0)(mock, file, whole.clone().freeze(), error)?;
                    break;
                }
            }
        }
        mock.write(file, time, whole.freeze().into()).await
    }
}

const MIB: usize = 1 << 20;
const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

mutants! {
    a_late_byte_is_flipped: Writes(|_, body| {
        let mut body = BytesMut::from(&body[..]);
        if let Some(byte) = body.get_mut(60_000) {
            *byte ^= 1;
        }
        body.freeze()
    }) => ["contract::what_is_written_is_read_back", "range::the_whole_file_is_read"];
    an_empty_file_is_not_kept: SkipsEmpty => ["contract::an_empty_file_is_a_file"];
    a_body_of_unknown_length_is_its_first_chunk: FirstChunk => [
        "contract::a_body_of_unknown_length_is_stored_whole",
        "contract::every_kind_of_body_is_stored",
    ];
    an_empty_chunk_ends_a_body: EndsAtAnEmptyChunk => [
        "contract::every_kind_of_body_is_stored",
        "contract::a_body_of_unknown_length_is_stored_whole",
    ];
    the_size_is_read_from_the_first_bytes: SizeByTheHeader => [
        "contract::what_is_written_is_read_back",
        "contract::every_kind_of_body_is_stored",
    ];
    the_old_tail_stays: Writes(|old, body| match old {
        Some(old) if old.len() > body.len() => [&body[..], &old[body.len()..]].concat().into(),
        _ => body,
    }) => ["write::a_shorter_file_leaves_no_tail", "model::any_calls_do_what_the_model_does"];
    the_first_version_stays: Writes(|old, body| old.unwrap_or(body)) => [
        "write::a_shorter_file_leaves_no_tail",
        "consistency::an_overwritten_file_is_never_read_old",
    ];
    the_last_part_is_lost: Writes(|_, body| {
        let whole_parts = body.len() > 8 * MIB && body.len() % (8 * MIB) == 0;
        body.slice(..if whole_parts { body.len() - 8 * MIB } else { body.len() })
    }) => ["big::sizes_around_a_part"];
    the_thirteenth_part_is_lost: Writes(|_, body| body.slice(..body.len().min(12 * 8 * MIB))) => [
        "big::a_large_file_streams_through",
    ];
    the_time_is_the_clocks: Times { kept: |_, _| NOW, told: |_| NOW } => [
        "timestamps::write_returns_what_a_listing_says",
        "timestamps::exact_times_are_those_that_were_written",
    ];
    the_time_told_is_not_the_one_kept: Times { kept: |_, time| time, told: |_| NOW } => [
        "timestamps::write_returns_what_a_listing_says",
    ];
    the_first_time_stays: Times {
        kept: |old, time| old.unwrap_or(time),
        told: |time| time,
    } => [
        "timestamps::exact_times_are_those_that_were_written",
        "model::any_calls_do_what_the_model_does",
    ];
    every_time_is_refused: RefusesTimes => ["timestamps::odd_times_are_kept_or_refused"];
    a_refused_time_leaves_the_file: RefusesTimesLate => ["timestamps::odd_times_are_kept_or_refused"];
    a_failed_body_leaves_its_beginning: FailedBodies(|mock, file, begun, error| {
        mock.put(file, NOW, begun);
        Err(error)
    }) => [
        "write::a_failing_body_leaves_nothing",
        "write::a_body_of_another_length_is_refused",
        "write::a_failed_overwrite_leaves_the_old_file",
        "model::calls_that_fail_have_happened_or_not",
    ];
    only_the_first_bytes_of_a_failed_body_stay: FailedBodies(|mock, file, begun, error| {
        match begun.len() {
            1..=50 => mock.put(file, NOW, begun),
            _ => mock.remove(file),
        }
        Err(error)
    }) => ["write::a_failing_body_leaves_nothing"];
    a_failed_body_is_ok: FailedBodies(|_, _, _, _| Ok(())) => [
        "write::a_failing_body_leaves_nothing",
        "write::a_body_of_another_length_is_refused",
    ];
    a_failed_overwrite_destroys_the_old_file: FailedBodies(|mock, file, _, error| {
        mock.remove(file);
        Err(error)
    }) => ["write::a_failed_overwrite_leaves_the_old_file"];
    every_failed_body_is_an_outage: FailedBodies(|_, _, _, error| {
        Err(Error::new(ErrorKind::Unavailable, "the write failed").with_source(error))
    }) => [
        "write::a_failing_body_leaves_nothing",
        "write::a_body_of_another_length_is_refused",
        "errors::an_error_says_what_failed_and_no_secret",
    ];
    a_file_is_visible_while_it_grows: Grows => [
        "write::nothing_is_visible_before_the_end",
        "consistency::what_is_visible_is_whole",
        "concurrency::listings_during_writes",
    ];
    an_overwrite_deletes_first: DeletesFirst => [
        "write::readers_see_the_old_file_until_the_new_one_is_whole",
        "write::a_failed_overwrite_leaves_the_old_file",
        "cancel::an_overwrite_dropped_at_any_step",
    ];
    a_slow_write_is_cut: CutsSlowBodies => ["write::a_slow_body_is_not_cut"];
    the_facts_depend_on_what_was_done: FactsChange::default() => [
        "contract::the_facts_of_a_client_do_not_change",
    ];
    opening_empties_the_store: OpeningEmpties => ["contract::opening_again_is_harmless"];
    a_percent_in_a_root_is_decoded: Roots(|root| Ok(root.replace("%20", " "))) => [
        "naming::odd_characters_name_a_root",
    ];
    odd_characters_in_a_root_are_dropped: Roots(|root| {
        Ok(root.chars().filter(|char| char.is_ascii_alphanumeric() || "/-.".contains(*char)).collect())
    }) => ["naming::odd_characters_name_a_root"];
    a_root_is_a_text_and_not_a_path: Roots(|root| {
        // The mock's roots are paths, which a text like this is not.
        Ok(root.replace("//", "/:").replace("/.", "/:"))
    }) => ["naming::every_spelling_of_a_root_is_one_place"];
    an_odd_root_panics: Roots(|root| {
        assert!(root.is_ascii() && !root.contains("//"), "not such a root");
        Ok(root.to_owned())
    }) => ["naming::odd_characters_name_a_root", "naming::every_spelling_of_a_root_is_one_place"];
    a_long_root_is_an_outage: Roots(|root| match root.len() {
        0..200 => Ok(root.to_owned()),
        _ => Err(Error::new(ErrorKind::Unavailable, "try again later")),
    }) => ["naming::long_roots_are_kept_or_refused"];
    a_long_root_fails_late: FailsLongRoots => ["naming::long_roots_are_kept_or_refused"];
    a_new_file_is_seen_later: LateWrites => [
        "consistency::a_written_file_is_read_at_once",
        "consistency::a_written_file_is_listed_in_time",
        "linear::reads_see_the_last_write",
    ];
}

struct SkipsEmpty;

#[async_trait]
impl Bug for SkipsEmpty {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        if body.size() == Some(0) {
            return Ok(info(file, time, 0));
        }
        mock.write(file, time, body).await
    }
}

struct FirstChunk;

#[async_trait]
impl Bug for FirstChunk {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let body = match body.size() {
            Some(_) => body,
            None => body
                .into_stream()
                .try_next()
                .await?
                .unwrap_or_default()
                .into(),
        };
        mock.write(file, time, body).await
    }
}

struct EndsAtAnEmptyChunk;

#[async_trait]
impl Bug for EndsAtAnEmptyChunk {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let mut stream = body.into_stream();
        let mut whole = BytesMut::new();
        while let Some(chunk) = stream.try_next().await? {
            if chunk.is_empty() {
                break;
            }
            whole.extend_from_slice(&chunk);
        }
        mock.write(file, time, whole.freeze().into()).await
    }
}

struct SizeByTheHeader;

#[async_trait]
impl Bug for SizeByTheHeader {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        mock.write(file, time, body).await?;
        Ok(info(file, time, 4096))
    }
}

struct RefusesTimes;

#[async_trait]
impl Bug for RefusesTimes {
    async fn write(&self, _: &MockClient, _: FileId, _: Timestamp, _: Body) -> Result<FileInfo> {
        Err(Error::new(ErrorKind::Invalid, "no such time"))
    }
}

struct RefusesTimesLate;

#[async_trait]
impl Bug for RefusesTimesLate {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let written = mock.write(file, time, body).await?;
        if time < Timestamp::EPOCH {
            return Err(Error::new(ErrorKind::Invalid, "no such time"));
        }
        Ok(written)
    }
}

struct Grows;

#[async_trait]
impl Bug for Grows {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let mut stream = body.into_stream();
        let mut whole = BytesMut::new();
        while let Some(chunk) = stream.try_next().await? {
            whole.extend_from_slice(&chunk);
            mock.put(file, time, whole.clone().freeze());
        }
        Ok(info(file, time, whole.len()))
    }
}

struct DeletesFirst;

#[async_trait]
impl Bug for DeletesFirst {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        mock.remove(file);
        mock.write(file, time, body).await
    }
}

struct CutsSlowBodies;

#[async_trait]
impl Bug for CutsSlowBodies {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let limit = Duration::from_millis(500);
        match tokio::time::timeout(limit, mock.write(file, time, body)).await {
            Ok(written) => written,
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "too slow")),
        }
    }
}

#[derive(Default)]
struct FactsChange(Mutex<u32>);

#[async_trait]
impl Bug for FactsChange {
    fn capabilities(&self, _: &MockClient) -> Capabilities {
        let writes = *lock(&self.0);
        Capabilities::FULL.with_list_lag(Duration::from_secs(u64::from(writes)))
    }

    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        *lock(&self.0) += 1;
        mock.write(file, time, body).await
    }
}

struct OpeningEmpties;

impl Bug for OpeningEmpties {
    fn opened(&self, mock: &MockClient) {
        for file in mock.files() {
            mock.remove(file);
        }
    }
}

/// Takes another root for the one it is given.
struct Roots(fn(&str) -> Result<String>);

impl Bug for Roots {
    fn root(&self, namespace: &str) -> Result<String> {
        (self.0)(namespace)
    }
}

/// Fails as "other" where a root has a part of more than 200 characters.
#[derive(Default)]
struct FailsLongRoots;

#[async_trait]
impl Bug for FailsLongRoots {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        // The root is all that the mock's debug text tells.
        if format!("{mock:?}").len() > 300 {
            return Err(Error::new(ErrorKind::Other, "the name is too long"));
        }
        mock.write(file, time, body).await
    }
}

struct LateWrites;

#[async_trait]
impl Bug for LateWrites {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let body = collect(body).await?;
        let size = body.len();
        let mock = mock.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            mock.put(file, time, body);
        });
        Ok(info(file, time, size))
    }
}
