//! The book that is kept of a replica: what each of its files must be, and what is promised of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ltx::{Header, Reader, WalSpan};
use replica_core::{FileId, FileInfo, Level, Timestamp, Txid};
use replica_engine::{RestorePlan, Retention, Target};
use replica_mock::Snapshot;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::application::{Application, write};
use crate::line::Entry;
use crate::verdict::{Verdict, holds};

/// What is known of every transaction that a replica ever had.
pub(crate) struct Ledger {
    scratch: TempDir,
    retention: Retention,
    states: BTreeMap<u64, State>,
    contents: BTreeMap<FileId, Bytes>,
    files: Snapshot,
    /// Until when each state can be restored.
    promised: BTreeMap<u64, Instant>,
    /// The files of restores that are under way, and when those were planned.
    planned: Vec<(Instant, Vec<FileInfo>)>,
}

/// The database after one transaction of the replica.
struct State {
    image: Vec<u8>,
    /// Which of the application's transactions is the last one in it.
    version: u64,
    time: Timestamp,
    span: Option<WalSpan>,
}

/// A file of a replica.
struct Content {
    header: Header,
    pages: Vec<(usize, Vec<u8>)>,
}

impl Ledger {
    pub(crate) fn new(retention: Retention) -> Ledger {
        Ledger {
            scratch: tempfile::tempdir().expect("a temporary folder"),
            retention,
            states: BTreeMap::new(),
            contents: BTreeMap::new(),
            files: Snapshot::new(),
            promised: BTreeMap::new(),
            planned: Vec::new(),
        }
    }

    /// The last transaction that the replica ever had.
    pub(crate) fn newest(&self) -> u64 {
        self.states.keys().next_back().copied().unwrap_or(0)
    }

    pub(crate) fn image(&self, txid: u64) -> Verdict<&[u8]> {
        let state = self.states.get(&txid).map(|state| &state.image[..]);
        state.ok_or_else(|| format!("transaction {txid} was never stored"))
    }

    pub(crate) fn version(&self, txid: u64) -> Verdict<u64> {
        let state = self.states.get(&txid).map(|state| state.version);
        state.ok_or_else(|| format!("transaction {txid} was never stored"))
    }

    /// The transactions with their times, if those ascend.
    pub(crate) fn times(&self) -> Option<Vec<(u64, Timestamp)>> {
        let times = self.states.iter().map(|(txid, state)| (*txid, state.time));
        let times: Vec<_> = times.collect();
        times.is_sorted_by_key(|(_, time)| *time).then_some(times)
    }

    /// Whether the state after `txid` is to be there at `now`.
    pub(crate) fn promises(&self, txid: u64, now: Instant) -> bool {
        txid == self.newest() || self.promised.get(&txid).is_some_and(|until| *until >= now)
    }

    /// Whether the state after `txid` can be restored, as it must be where it is promised.
    pub(crate) fn has(&self, txid: u64) -> bool {
        RestorePlan::new(Target::Txid(number(txid)), &listed(&self.files)).is_ok()
    }

    /// What was promised of older states does not hold any more.
    pub(crate) fn forgive(&mut self) {
        self.promised.clear();
    }

    /// A restore begins of whatever `target` gives.
    pub(crate) fn plan(&mut self, target: Target, now: Instant) {
        let grace = self.retention.grace;
        self.planned.retain(|(at, _)| *at + grace > now);
        if let Ok(plan) = RestorePlan::new(target, &listed(&self.files)) {
            self.planned.push((now, plan.needed().to_vec()));
        }
    }

    /// Judges what is in the store after a change, at which the clock said `time`.
    pub(crate) fn check(
        &mut self,
        application: &Application,
        entry: Entry,
        time: Timestamp,
    ) -> Verdict {
        // The lowest level first: what others are made of.
        for (file, (_, content)) in &entry.files {
            if self.files.get(file).map(|(_, before)| before) != Some(content) {
                let stored = self.stored(application, *file, content);
                stored.map_err(|reason| format!("{file}: {reason}"))?;
                self.promise(*file, entry.at, time)?;
            }
        }
        self.files = entry.files;
        let files = listed(&self.files);
        if self.newest() > 0 {
            let latest = RestorePlan::new(Target::Latest, &files);
            let latest = latest.map_err(|error| format!("the latest state is lost: {error}"))?;
            let (latest, newest) = (latest.txid().get(), self.newest());
            holds!(
                latest == newest,
                "the latest state is {latest}, and was {newest}"
            );
        }
        for (txid, until) in &self.promised {
            if *until >= entry.at {
                let target = Target::Txid(number(*txid));
                let plan = RestorePlan::new(target, &files);
                plan.map_err(|error| format!("transaction {txid} is lost too soon: {error}"))?;
            }
        }
        for (at, needed) in &self.planned {
            let is_running = *at + self.retention.grace > entry.at;
            let gone = needed
                .iter()
                .find(|file| !self.files.contains_key(&file.id));
            if let (true, Some(gone)) = (is_running, gone) {
                return Err(format!("{} is gone, which a restore needs", gone.id));
            }
        }
        Ok(())
    }

    /// Judges a file that is new, or another one than before.
    fn stored(&mut self, application: &Application, file: FileId, content: &Bytes) -> Verdict {
        if let Some(before) = self.contents.insert(file, content.clone()) {
            holds!(
                before == content,
                "it was stored with another content before"
            );
        }
        let content = Content::read(content)?;
        holds!(
            content.header.txids() == file.txids,
            "it holds other transactions"
        );
        let (min, max) = (file.txids.min().get(), file.txids.max().get());
        let newest = self.newest();
        let image = match min {
            1 => content.onto(&[]),
            _ => {
                let before = self.states.range(min - 1..max);
                let mut images = before.map(|(_, state)| content.onto(&state.image));
                let Some(image) = images
                    .next()
                    .filter(|_| self.states.contains_key(&(min - 1)))
                else {
                    holds!(
                        content.is_whole(),
                        "there is nothing that it could apply to"
                    );
                    return self.add(application, max, content.onto(&[]), &content);
                };
                // Whatever of its transactions are there already.
                let same = images.all(|other| other == image);
                holds!(same, "it lacks pages that its transactions have changed");
                image
            }
        };
        match self.states.get(&max) {
            Some(state) => {
                let is_same = state.image == image && state.time == content.header.timestamp();
                // The first of two files of a new start is the snapshot.
                holds!(is_same, "it is not the state after transaction {max}");
                if let (Level::RAW, Some(state)) = (file.level, self.states.get_mut(&max)) {
                    state.span = content.header.wal();
                }
                Ok(())
            }
            None => {
                holds!(
                    max == newest + 1 || content.is_whole(),
                    "it does not follow transaction {newest}"
                );
                self.add(application, max, image, &content)
            }
        }
    }

    /// Judges the state after a new transaction.
    fn add(
        &mut self,
        application: &Application,
        txid: u64,
        image: Vec<u8>,
        content: &Content,
    ) -> Verdict {
        let path = self.scratch.path().join("state.db");
        let mut readable = image.clone();
        // So that SQLite needs no log for it.
        for byte in readable.iter_mut().skip(18).take(2) {
            *byte = 1;
        }
        write(&path, &readable);
        let Some(version) = application.version_of(&path)? else {
            return Err(format!(
                "transaction {txid} is no state that the application has left"
            ));
        };
        let span = content.header.wal();
        if let Some((_, before)) = self.states.range(..txid).next_back()
            && !content.is_whole()
        {
            let was = before.version;
            holds!(
                version >= was,
                "transaction {txid} has {version}, the one before {was}"
            );
            let goes_on = match (before.span, span) {
                (Some(before), Some(span)) if before.salts() == span.salts() => {
                    before.offset() + before.size() == span.offset()
                }
                (_, Some(span)) => span.offset() == 32,
                (_, None) => false,
            };
            holds!(
                goes_on,
                "it was made of {span:?}, the one before of {:?}",
                before.span
            );
        }
        let time = content.header.timestamp();
        self.states.insert(
            txid,
            State {
                image,
                version,
                time,
                span,
            },
        );
        Ok(())
    }

    /// Notes for how long the state after a file is there, where the clock says `time` at `now`.
    fn promise(&mut self, file: FileId, now: Instant, time: Timestamp) -> Verdict {
        let span = match file.level {
            Level::RAW => self.retention.raw,
            _ => self.retention.states,
        };
        let txid = file.txids.max().get();
        let made = self.states.get(&txid).map_or(time, |state| state.time);
        let age = time.as_millis().saturating_sub(made.as_millis());
        let left = span.saturating_sub(Duration::from_millis(u64::try_from(age).unwrap_or(0)));
        let until = self.promised.entry(txid).or_insert(now);
        *until = (*until).max(now + left);
        Ok(())
    }
}

impl Content {
    fn read(file: &[u8]) -> Verdict<Content> {
        let failed = |error: ltx::ReadError| format!("it is damaged: {error}");
        let mut reader = Reader::new(file).map_err(failed)?;
        let header = *reader.header();
        let mut page = vec![0; header.page_size().bytes()];
        let mut pages = Vec::new();
        while let Some(pgno) = reader.next_page(&mut page).map_err(failed)? {
            pages.push((pgno.get() as usize - 1, page.clone()));
        }
        Ok(Content { header, pages })
    }

    fn is_whole(&self) -> bool {
        self.pages.len() == self.header.commit() as usize
    }

    /// The database that it makes of another one.
    fn onto(&self, before: &[u8]) -> Vec<u8> {
        let size = self.header.page_size().bytes();
        let mut image = before.to_vec();
        image.resize(self.header.commit() as usize * size, 0);
        for (index, page) in &self.pages {
            image[index * size..][..size].copy_from_slice(page);
        }
        image
    }
}

/// The files as a listing has them.
fn listed(files: &Snapshot) -> Vec<FileInfo> {
    let info = |(id, (created_at, content)): (&FileId, &(Timestamp, Bytes))| FileInfo {
        id: *id,
        size: content.len() as u64,
        created_at: *created_at,
    };
    files.iter().map(info).collect()
}

pub(crate) fn number(txid: u64) -> Txid {
    Txid::new(txid).expect("transactions count from 1")
}
