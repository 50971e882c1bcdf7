//! Any sequence of calls, beside a model of what they should do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use replica_core::{ByteRange, ErrorKind, FileId, Level, Timestamp};

use super::{
    NOON, SETTLING, assert_bytes, assert_error, content, failing_body, file, level, ok, raw, steps,
    txid,
};
use crate::property::{Effort, holds};
use crate::store::{Client, Store};

/// The files that the calls are about: few, so that the calls meet, and with names that are
/// easily taken for each other.
fn files() -> [FileId; 10] {
    [
        raw(1),
        raw(2),
        raw(16),
        file(Level::RAW, 1, 2),
        file(Level::RAW, 2, 16),
        file(level(1), 1, 2),
        file(level(1), 3, 3),
        file(level(1), 16, 255),
        file(Level::SNAPSHOT, 1, 1),
        file(Level::SNAPSHOT, 1, 16),
    ]
}

/// A call, with files as places in [`files`].
#[derive(Clone, Debug)]
enum Call {
    Write {
        file: usize,
        size: usize,
        time: i64,
    },
    Read {
        file: usize,
        start: u64,
        len: Option<u64>,
    },
    List {
        level: u8,
        from: u64,
    },
    ListExact {
        level: u8,
    },
    Delete {
        files: Vec<usize>,
    },
    DeleteAll,
    Reopen,
    /// A write whose body fails after so many bytes.
    FailingWrite {
        file: usize,
        size: usize,
        at: usize,
    },
    /// Calls that are dropped after so many polls.
    DroppedWrite {
        file: usize,
        size: usize,
        polls: usize,
    },
    DroppedDelete {
        files: Vec<usize>,
        polls: usize,
    },
}

fn a_file() -> std::ops::Range<usize> {
    0..files().len()
}

fn reliable() -> impl Strategy<Value = Call, Tree: Send> {
    // Where the edges are, and anywhere.
    let start = prop_oneof![2 => Just(0), 1 => 0u64..30, 2 => 0u64..3_100];
    let len = prop_oneof![1 => Just(0), 1 => 0u64..30, 2 => 0u64..3_000];
    let levels = proptest::sample::select(vec![0u8, 1, 5, 9]);
    prop_oneof![
        6 => (a_file(), 0usize..3_000, 0i64..1_000_000_000).prop_map(|(file, size, time)| {
            Call::Write { file, size, time }
        }),
        4 => (a_file(), start, proptest::option::of(len)).prop_map(
            |(file, start, len)| Call::Read { file, start, len }
        ),
        3 => (levels.clone(), 1u64..20).prop_map(|(level, from)| Call::List { level, from }),
        1 => levels.prop_map(|level| Call::ListExact { level }),
        2 => proptest::collection::vec(a_file(), 0..4).prop_map(|files| Call::Delete { files }),
        1 => Just(Call::DeleteAll),
        1 => Just(Call::Reopen),
    ]
}

fn unreliable() -> impl Strategy<Value = Call, Tree: Send> {
    prop_oneof![
        4 => reliable(),
        1 => (a_file(), 1usize..3_000, 0usize..3_000).prop_map(|(file, size, at)| {
            Call::FailingWrite { file, size, at: at.min(size) }
        }),
        1 => (a_file(), 0usize..3_000, 1usize..8).prop_map(|(file, size, polls)| {
            Call::DroppedWrite { file, size, polls }
        }),
        1 => (proptest::collection::vec(a_file(), 1..4), 1usize..4).prop_map(|(files, polls)| {
            Call::DroppedDelete { files, polls }
        }),
    ]
}

fn effort(store: &Store) -> (Effort, usize) {
    let (at_most, calls, budget) = if store.slow() {
        (256, 50, 600)
    } else {
        (64, 30, 20)
    };
    let effort = Effort {
        at_least: 4,
        at_most,
        budget: Duration::from_secs(budget),
    };
    (effort, calls)
}

pub(crate) async fn any_calls_do_what_the_model_does(store: Store) {
    let (effort, calls) = effort(&store);
    let calls = proptest::collection::vec(reliable(), 1..=calls);
    let roots = AtomicU64::new(0);

    holds(store.seed(), effort, calls, |calls| {
        let root = roots.fetch_add(1, Ordering::Relaxed);
        Run::all(&store, root, calls)
    })
    .await;
}

pub(crate) async fn calls_that_fail_have_happened_or_not(store: Store) {
    let (effort, calls) = effort(&store);
    let effort = Effort {
        // Each waits for calls that were dropped and might still happen.
        at_most: effort.at_most / 4,
        ..effort
    };
    let calls = proptest::collection::vec(unreliable(), 1..=calls);
    let roots = AtomicU64::new(1_000_000);

    holds(store.seed(), effort, calls, |calls| {
        let root = roots.fetch_add(1, Ordering::Relaxed);
        Run::all(&store, root, calls)
    })
    .await;
}

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    content: Bytes,
    created_at: Timestamp,
}

/// What may be true of one file: what the calls that ended have left, and what dropped calls may
/// still make of it.
#[derive(Clone, Debug, Default)]
struct Possible {
    sure: Option<Version>,
    late: Vec<Option<Version>>,
}

impl Possible {
    fn any(&self, is_it: impl Fn(Option<&Version>) -> bool) -> bool {
        is_it(self.sure.as_ref()) || self.late.iter().any(|late| is_it(late.as_ref()))
    }

    fn may_be_there(&self) -> bool {
        self.any(|version| version.is_some())
    }

    fn may_be_missing(&self) -> bool {
        self.any(|version| version.is_none())
    }
}

/// One sequence of calls on a root of its own.
struct Run<'a> {
    store: &'a Store,
    root: String,
    client: Client,
    model: BTreeMap<FileId, Possible>,
    writes: u64,
}

impl Run<'_> {
    async fn all(store: &Store, root: u64, calls: Vec<Call>) {
        let root = format!("model-{root}");
        let mut run = Run {
            store,
            client: store.sibling(&root).await,
            root,
            model: files()
                .into_iter()
                .map(|file| (file, Possible::default()))
                .collect(),
            writes: 0,
        };
        for call in calls {
            run.step(call).await;
        }
        if run.model.values().any(|file| !file.late.is_empty()) {
            run.client.wait(SETTLING).await;
        }
        for level in [Level::RAW, level(1), level(5), Level::SNAPSHOT] {
            run.list(level, 1).await;
            run.check_agreement(level).await;
        }
        for file in files() {
            run.read(file, ByteRange::ALL).await;
        }
        run.client.must_delete_all().await;
    }

    async fn step(&mut self, call: Call) {
        let named = |places: &[usize]| -> Vec<FileId> {
            places.iter().map(|place| files()[*place]).collect()
        };
        match call {
            Call::Write { file, size, time } => {
                let file = files()[file];
                let version = self.version(size, time);
                let (time, content) = (version.created_at, version.content.clone());
                self.client.must_write_at(file, time, &content).await;
                self.possible(file).sure = Some(version);
            }
            Call::Read { file, start, len } => {
                let range = len.map_or((start..).into(), |len| (start..start + len).into());
                self.read(files()[file], range).await;
            }
            Call::List {
                level: number,
                from,
            } => self.list(level(number), from).await,
            Call::ListExact { level: number } => self.list_exact(level(number)).await,
            Call::Delete { files } => {
                let files = named(&files);
                self.client.must_delete(&files).await;
                for file in files {
                    self.possible(file).sure = None;
                }
            }
            Call::DeleteAll => {
                self.client.must_delete_all().await;
                for possible in self.model.values_mut() {
                    possible.sure = None;
                }
            }
            Call::Reopen => self.client = self.store.sibling(&self.root).await,
            Call::FailingWrite { file, size, at } => {
                let content = self.version(size, 0).content;
                let body = failing_body(&content, at, ErrorKind::Unavailable);
                let written = self.client.write(files()[file], NOON, body).await;
                assert_error(written, ErrorKind::Unavailable, "a write whose body fails");
            }
            Call::DroppedWrite { file, size, polls } => {
                let file = files()[file];
                let version = self.version(size, 1_000);
                let body = version.content.clone().into();
                let write = self.client.write(file, version.created_at, body);
                match steps(write, polls).await {
                    Some(written) => {
                        ok(written, "a write that was not dropped");
                        self.possible(file).sure = Some(version);
                    }
                    None => self.possible(file).late.push(Some(version)),
                }
            }
            Call::DroppedDelete { files, polls } => {
                let files = named(&files);
                let deleted = steps(self.client.delete(&files), polls).await;
                let ended = deleted.map(|deleted| ok(deleted, "a delete that was not dropped"));
                for file in files {
                    match ended {
                        Some(()) => self.possible(file).sure = None,
                        None => self.possible(file).late.push(None),
                    }
                }
            }
        }
    }

    fn version(&mut self, size: usize, time: i64) -> Version {
        self.writes += 1;
        Version {
            content: content(size, self.writes),
            created_at: Timestamp::from_millis(NOON.as_millis() + time),
        }
    }

    fn possible(&mut self, file: FileId) -> &mut Possible {
        self.model.entry(file).or_default()
    }

    async fn read(&mut self, file: FileId, range: ByteRange) {
        let client = self.client.clone();
        let possible = self.possible(file);
        let cut = |version: &Version| {
            let range = range.resolve(version.content.len() as u64).ok()?;
            Some(
                version
                    .content
                    .slice(range.start as usize..range.end as usize),
            )
        };
        match replica_core::ReplicaClientExt::read(&*client, file, range).await {
            Ok(found) => {
                let is_it = |version: Option<&Version>| {
                    version.and_then(cut).is_some_and(|wanted| wanted == found)
                };
                if !possible.any(is_it) {
                    let wanted = possible.sure.as_ref().and_then(cut).unwrap_or_default();
                    assert_bytes(&found, &wanted, &format!("reading {range} of {file}"));
                    panic!("reading {range} of {file}: it should not be there, or not so long");
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                assert!(possible.may_be_missing(), "{file} is not found");
            }
            Err(error) if error.kind() == ErrorKind::Invalid => {
                let beyond = |version: Option<&Version>| version.is_some_and(|v| cut(v).is_none());
                assert!(
                    possible.any(beyond),
                    "{range} of {file} is refused: {error}"
                );
            }
            error => drop(ok(error, &format!("reading {range} of {file}"))),
        }
    }

    async fn list(&mut self, level: Level, from: u64) {
        let listed = self.client.must_list_from(level, txid(from)).await;
        for (file, possible) in &self.model {
            if file.level != level || file.txids.min().get() < from {
                continue;
            }
            match listed.iter().find(|info| info.id == *file) {
                None => assert!(possible.may_be_missing(), "{file} is not listed"),
                Some(info) => {
                    assert!(possible.may_be_there(), "{file} is listed");
                    let is_it = |version: Option<&Version>| {
                        version.is_some_and(|version| version.content.len() as u64 == info.size)
                    };
                    assert!(
                        possible.any(is_it),
                        "{file} is listed with {} bytes",
                        info.size
                    );
                }
            }
        }
        let stray = listed
            .iter()
            .find(|info| !self.model.contains_key(&info.id));
        assert_eq!(stray, None, "a file is listed that nobody wrote");
    }

    /// Whatever dropped calls have made of the files: what is listed can be opened, and the other
    /// way round.
    async fn check_agreement(&self, level: Level) {
        let listed = self.client.must_list(level).await;
        let listed: Vec<_> = listed.iter().map(|info| (info.id, info.size)).collect();
        let mut opened = Vec::new();
        for file in self.model.keys().filter(|file| file.level == level) {
            if let Some(content) = self.client.content_of(*file).await {
                opened.push((*file, content.len() as u64));
            }
        }
        assert_eq!(listed, opened, "what is listed, and what can be opened");
    }

    async fn list_exact(&mut self, level: Level) {
        if self.client.capabilities().timestamp_resolution.is_none() {
            return self.list(level, 1).await;
        }
        for info in self.client.must_list_exact(level).await {
            let rounded = |time: Timestamp| self.client.rounded(time);
            let possible = self.model.get(&info.id).cloned().unwrap_or_default();
            let is_it = |version: Option<&Version>| {
                version.is_some_and(|version| {
                    version.content.len() as u64 == info.size
                        && rounded(version.created_at) == Some(info.created_at)
                })
            };
            assert!(
                possible.any(is_it),
                "{} is listed with {} bytes of {}",
                info.id,
                info.size,
                info.created_at
            );
        }
    }
}
