//! Mutants that list wrongly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Capabilities, Error, ErrorKind, FileInfo, FileStream, Level, Result, Timestamp, Timestamps,
    Txid, async_trait,
};
use replica_mock::MockClient;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::{Bug, Query, leaking, listed, lock, mutants};

/// Lists wrongly: gets all files of the level and what is asked for, and gives what it gives.
struct Lists(fn(Vec<FileInfo>, Query) -> Vec<FileInfo>);

#[async_trait]
impl Bug for Lists {
    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        Ok(listed((self.0)(query.all(mock).await?, query)))
    }
}

fn from(files: Vec<FileInfo>, query: Query) -> impl DoubleEndedIterator<Item = FileInfo> {
    files
        .into_iter()
        .filter(move |file| file.id.txids.min() >= query.from)
}

mutants! {
    the_listing_is_in_reverse: Lists(|files, query| from(files, query).rev().collect()) => [
        "list::files_come_in_order_each_once",
        "list::from_is_inclusive",
    ];
    the_listing_is_sorted_as_decimal_text: Lists(|files, query| {
        let mut files: Vec<_> = from(files, query).collect();
        files.sort_by_key(|file| file.id.txids.min().get().to_string());
        files
    }) => ["list::transactions_are_numbers_and_not_text"];
    the_listing_is_sorted_by_max: Lists(|files, query| {
        let mut files: Vec<_> = from(files, query).collect();
        files.sort_by_key(|file| file.id.txids.max());
        files
    }) => ["list::files_come_in_order_each_once"];
    files_of_one_min_are_taken_for_one: Lists(|files, query| {
        let mut files: Vec<_> = from(files, query).collect();
        files.dedup_by_key(|file| file.id.txids.min());
        files
    }) => ["list::files_come_in_order_each_once"];
    sizes_are_in_blocks: Lists(|files, query| {
        let blocks = |file: FileInfo| FileInfo { size: file.size.next_multiple_of(512), ..file };
        from(files, query).map(blocks).collect()
    }) => [
        "list::files_come_in_order_each_once",
        "contract::what_is_written_is_read_back",
        "concurrency::listings_during_writes",
    ];
    from_is_exclusive: Lists(|files, query| {
        from(files, query)
            .filter(|file| query.from == Txid::FIRST || file.id.txids.min() != query.from)
            .collect()
    }) => ["list::from_is_inclusive", "cancel::listings_dropped_after_the_first_item"];
    from_has_to_be_there: Lists(|files, query| {
        let is_from = |file: &FileInfo| file.id.txids.min() == query.from;
        if query.from != Txid::FIRST && !files.iter().any(is_from) {
            return Vec::new();
        }
        from(files, query).collect()
    }) => ["list::a_gap_starts_at_the_next_file"];
    from_a_gap_only_one_file_comes: Lists(|files, query| {
        let is_from = |file: &FileInfo| file.id.txids.min() == query.from;
        let one = query.from != Txid::FIRST && !files.iter().any(is_from);
        from(files, query).take(if one { 1 } else { usize::MAX }).collect()
    }) => ["list::a_gap_starts_at_the_next_file"];
    a_file_that_contains_from_is_listed: Lists(|files, query| {
        files.into_iter().filter(|file| file.id.txids.max() >= query.from).collect()
    }) => ["list::a_file_that_only_contains_from_is_left_out"];
    from_is_a_prefix_of_the_name: Lists(|files, query| {
        let prefix = query.from.to_string();
        let prefix = prefix.trim_end_matches('0').to_owned();
        let is_first = query.from == Txid::FIRST;
        files.into_iter().filter(|file| is_first || file.id.txids.to_string().starts_with(&prefix)).collect()
    }) => [
        "list::from_is_inclusive",
        "list::transactions_are_numbers_and_not_text",
    ];
    from_is_a_signed_number: Lists(|files, query| {
        let signed = |txid: Txid| txid.get() as i64;
        files
            .into_iter()
            .filter(|file| signed(file.id.txids.min()) >= signed(query.from))
            .collect()
    }) => ["naming::every_transaction_has_a_name", "list::transactions_are_numbers_and_not_text"];
    one_page_is_all: Lists(|files, query| from(files, query).take(1000).collect()) => [
        "list::more_files_than_a_page",
        "list::changes_between_pages_are_seen_or_not",
    ];
    the_first_file_of_a_page_comes_twice: Lists(|files, query| {
        let twice = |(place, file)| vec![file; if place % 1000 == 999 { 2 } else { 1 }];
        from(files, query).enumerate().flat_map(twice).collect()
    }) => ["list::more_files_than_a_page"];
    pages_are_found_by_position: PagesByPosition => [
        "list::changes_between_pages_are_seen_or_not",
    ];
    a_level_holds_those_whose_number_it_begins: LevelsMix => [
        "list::levels_do_not_mix",
        "contract::levels_are_independent",
    ];
    a_level_never_written_is_not_found: EmptyIsNotFound => [
        "list::a_level_never_written_is_empty",
        "isolation::deleting_all_of_nothing_is_fine",
    ];
    listings_are_always_empty: Lists(|_, _| Vec::new()) => [
        "list::files_come_in_order_each_once",
        "contract::opening_again_is_harmless",
        "naming::odd_characters_name_a_root",
    ];
    a_fast_listing_leaves_the_newest_out: Lists(|files, query| {
        let files: Vec<_> = from(files, query).collect();
        let newest = usize::from(query.timestamps == Timestamps::Fast && files.len() > 10);
        let count = files.len() - newest;
        files.into_iter().take(count).collect()
    }) => ["timestamps::fast_times_list_the_same_files"];
    exact_times_fall_back: Lists(|files, query| {
        let now = Timestamp::from_millis(1_795_000_000_000);
        from(files, query).map(|file| FileInfo { created_at: now, ..file }).collect()
    }) => [
        "timestamps::exact_times_are_those_that_were_written",
        "timestamps::write_returns_what_a_listing_says",
        "timestamps::odd_times_are_kept_or_refused",
    ];
    times_are_rounded_to_seconds: Lists(|files, query| {
        let seconds = |file: FileInfo| Timestamp::from_millis(file.created_at.as_millis() / 1000 * 1000);
        from(files, query).map(|file| FileInfo { created_at: seconds(file), ..file }).collect()
    }) => ["timestamps::exact_times_are_those_that_were_written"];
    seconds_have_32_bits: Lists(|files, query| {
        let wrapped = |file: FileInfo| {
            let millis = file.created_at.as_millis();
            let seconds = i64::from((millis.div_euclid(1000)) as u32);
            Timestamp::from_millis(seconds * 1000 + millis.rem_euclid(1000))
        };
        from(files, query).map(|file| FileInfo { created_at: wrapped(file), ..file }).collect()
    }) => ["timestamps::odd_times_are_kept_or_refused"];
    a_store_without_times_lists_none: WithoutTimes => [
        "timestamps::exact_times_are_those_that_were_written",
    ];
    an_exact_time_takes_a_request: SlowTimes => ["timestamps::many_exact_times_come_in_time"];
    listings_lag_undeclared: Lags::of(Duration::from_secs(1)) => [
        "consistency::a_written_file_is_listed_in_time",
        "consistency::a_deleted_file_is_gone_at_once",
        "linear::listings_show_what_is_there",
    ];
    listings_lag_more_than_declared: Lags {
        lag: Duration::from_secs(6),
        declared: Duration::from_secs(5),
        ..Lags::default()
    } => ["consistency::a_written_file_is_listed_in_time"];
    a_dropped_listing_is_not_given_back: LeaksListings::default() => [
        "cancel::listings_dropped_after_the_first_item",
    ];
}

/// Finds a page by how many files it has given, as if nothing changed in between.
struct PagesByPosition;

#[async_trait]
impl Bug for PagesByPosition {
    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        let mock = mock.clone();
        let pages = stream::try_unfold(0, move |position| {
            let mock = mock.clone();
            async move {
                let files: Vec<_> = query.ask(&mock).await?.try_collect().await?;
                let page: Vec<_> = files
                    .into_iter()
                    .skip(position)
                    .take(1000)
                    .map(Ok)
                    .collect();
                let next = position + page.len();
                Ok((!page.is_empty()).then_some((stream::iter(page), next)))
            }
        });
        Ok(pages.try_flatten().boxed())
    }
}

struct LevelsMix;

#[async_trait]
impl Bug for LevelsMix {
    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        let mut files: Vec<_> = query.ask(mock).await?.try_collect().await?;
        if query.level.get() == 1 {
            let other = Query {
                level: Level::SNAPSHOT,
                ..query
            };
            let others: Vec<_> = other.ask(mock).await?.try_collect().await?;
            files.extend(others);
        }
        Ok(listed(files))
    }
}

struct EmptyIsNotFound;

#[async_trait]
impl Bug for EmptyIsNotFound {
    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        if query.all(mock).await?.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no such folder"));
        }
        query.ask(mock).await
    }
}

struct WithoutTimes;

#[async_trait]
impl Bug for WithoutTimes {
    fn capabilities(&self, _: &MockClient) -> Capabilities {
        Capabilities::FULL.with_timestamp_resolution(None)
    }

    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        match query.timestamps {
            Timestamps::Fast => query.ask(mock).await,
            Timestamps::Exact => Ok(listed([])),
        }
    }
}

struct SlowTimes;

#[async_trait]
impl Bug for SlowTimes {
    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        let listing = query.ask(mock).await?;
        Ok(match query.timestamps {
            Timestamps::Fast => listing,
            Timestamps::Exact => listing
                .then(|file| async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    file
                })
                .boxed(),
        })
    }
}

/// What a listing shows, and since when it is no longer true.
type Shown = (Option<Instant>, Vec<FileInfo>);

/// Shows a level as it was a while ago.
#[derive(Default)]
struct Lags {
    lag: Duration,
    declared: Duration,
    shown: Mutex<HashMap<Level, Shown>>,
}

impl Lags {
    fn of(lag: Duration) -> Lags {
        Lags {
            lag,
            ..Lags::default()
        }
    }
}

#[async_trait]
impl Bug for Lags {
    fn capabilities(&self, _: &MockClient) -> Capabilities {
        Capabilities::FULL.with_list_lag(self.declared)
    }

    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        let now = Instant::now();
        let files = query.all(mock).await?;
        let mut shown = lock(&self.shown);
        let (since, old) = shown.entry(query.level).or_default();
        match *since {
            _ if *old == files => *since = None,
            None => *since = Some(now),
            Some(changed) if now - changed >= self.lag => (*since, *old) = (None, files),
            Some(_) => {}
        }
        Ok(listed(from(old.clone(), query)))
    }
}

/// Has 64 connections, and a listing that is not read to its end keeps its own.
struct LeaksListings(Arc<Semaphore>);

impl Default for LeaksListings {
    fn default() -> LeaksListings {
        LeaksListings(Arc::new(Semaphore::new(64)))
    }
}

#[async_trait]
impl Bug for LeaksListings {
    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        let permit = self.0.clone().acquire_owned().await;
        let listing = query.ask(mock).await?;
        Ok(leaking(listing, permit.expect("nobody closes it")))
    }
}
