//! Turns the bytes of files into the pages of a database file: one thread decodes, one writes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use ltx::{Checksum, DatabaseChecksum, Decoder, Header, PageSize, Pgno, Step, Trailer};
use replica_core::{FileId, FileInfo, Timestamp};
use tokio::sync::{mpsc as pieces, oneshot};

use crate::damage::{ReadFailure, check_name};
use crate::fetch::{Follows, Piece};
use crate::progress::Listener;
use crate::{Damage, Fault, Progress};

/// How many bytes of pages travel to the writing thread at a time.
const BATCH_BYTES: usize = 1024 * 1024;
/// How many batches there are: one being filled, one being written, the others between them.
const BATCHES: usize = 4;
/// After how many bytes the system is told to begin with what was written so far, so that little
/// is left to do when everything is synced.
const WRITEBACK_BYTES: u64 = 32 * 1024 * 1024;
/// How many pieces wait for the decoding thread, and ends of files between them.
const PIECES: usize = 3;
/// How many runs of pages may be missing at a time, to be brought by later files.
const MISSING_RUNS_MAX: usize = 100_000;

/// What came of applying files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied {
    /// The header of the last file.
    pub(crate) header: Header,
}

/// Why files could not be applied.
#[derive(Debug)]
pub(crate) enum Failure {
    Read(ReadFailure),
    Write {
        action: &'static str,
        source: io::Error,
    },
}

/// Writes the database that the files of `assembly` give, whose bytes are `pieces`, into `into`,
/// whatever that held, and syncs it.
///
/// Nothing is proven before it has returned `Ok`. Dropping it stops both threads within one batch.
pub(crate) async fn apply(
    assembly: Assembly,
    pieces: impl Stream<Item = Piece> + Send,
    into: Arc<File>,
    listener: Listener,
) -> Result<Applied, Failure> {
    let (sender, receiver) = pieces::channel(PIECES);
    let (done, applied) = oneshot::channel();
    let threads = thread::Builder::new()
        .name("restore-decode".into())
        .spawn(move || {
            let _ = done.send(decode_and_write(receiver, assembly, &into, &listener));
        })
        .map_err(no_thread)?;

    let fed = feed(pieces, sender).await;
    match (applied.await, fed) {
        (Ok(Ok(applied)), Ok(())) => Ok(applied),
        (Ok(Err(Stopped::Failed(failure))), _) | (Ok(_), Err(failure)) => Err(failure),
        (Ok(Err(Stopped::Abandoned)), Ok(())) => {
            unreachable!("the threads are told of the end, unless they stop by themselves")
        }
        (Err(_), _) => match threads.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("the thread says what came of it, or panics"),
        },
    }
}

fn no_thread(source: io::Error) -> Failure {
    Failure::Write {
        action: "start a thread to write",
        source,
    }
}

/// What the decoding thread is given.
enum Input {
    Chunks(Vec<Bytes>),
    /// The file ends here.
    EndOfFile,
    /// The file ends here, and should not.
    Short,
    /// All files were given.
    End,
}

/// Passes `pieces` on until one can't be fetched, or nobody wants them any more.
async fn feed(
    pieces: impl Stream<Item = Piece> + Send,
    sender: pieces::Sender<Input>,
) -> Result<(), Failure> {
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.next().await {
        let (file, bytes) = (piece.file.id, piece.bytes);
        let chunks = bytes.map_err(|error| Failure::Read(ReadFailure::new(file, error)))?;
        let mut sent = sender.send(Input::Chunks(chunks)).await;
        match piece.follows {
            Follows::More => {}
            Follows::NextFile => sent = sender.send(Input::EndOfFile).await,
            Follows::Nothing => sent = sender.send(Input::Short).await,
        }
        // Whoever has stopped listening says why.
        if sent.is_err() || piece.follows == Follows::Nothing {
            return Ok(());
        }
    }
    let _ = sender.send(Input::End).await;
    Ok(())
}

/// Why a thread ended without having written the database.
enum Stopped {
    Failed(Failure),
    /// Another one has stopped, and knows why.
    Abandoned,
}

impl From<Damage> for Stopped {
    fn from(damage: Damage) -> Stopped {
        Stopped::Failed(Failure::Read(damage.into()))
    }
}

fn decode_and_write(
    mut receiver: pieces::Receiver<Input>,
    assembly: Assembly,
    into: &File,
    listener: &Listener,
) -> Result<Applied, Stopped> {
    let (full, to_write) = mpsc::sync_channel(BATCHES);
    let (written, empty) = mpsc::sync_channel(BATCHES);
    thread::scope(|scope| {
        let writer = thread::Builder::new()
            .name("restore-write".into())
            .spawn_scoped(scope, move || write(to_write, written, into, listener))
            .map_err(|source| Stopped::Failed(no_thread(source)))?;
        let decoded = decode(&mut receiver, assembly, Batches::new(full, empty), listener);
        // Nothing more is taken, so that the other end stops fetching while the writer finishes.
        drop(receiver);
        match writer.join() {
            Ok(Err(Stopped::Failed(failure))) => Err(Stopped::Failed(failure)),
            Ok(Ok(()) | Err(Stopped::Abandoned)) => decoded,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Decodes what `receiver` gives into batches, and ends with the one that has the writer sync.
fn decode(
    receiver: &mut pieces::Receiver<Input>,
    mut assembly: Assembly,
    mut batches: Batches,
    listener: &Listener,
) -> Result<Applied, Stopped> {
    let mut decoder = Decoder::new();
    loop {
        let chunks = match receiver.blocking_recv() {
            Some(Input::Chunks(chunks)) => chunks,
            Some(Input::EndOfFile) => {
                let trailer = decoder.finish().map_err(|error| assembly.fault(error))?;
                assembly.end(trailer);
                decoder = Decoder::new();
                continue;
            }
            Some(Input::Short) => {
                let fault = decoder.finish().err().map_or(Fault::Shorter, Fault::Format);
                return Err(assembly.fault(fault).into());
            }
            Some(Input::End) => break,
            None => return Err(Stopped::Abandoned),
        };
        for chunk in &chunks {
            let mut input = &chunk[..];
            loop {
                let step = decoder.decode(&mut input, batches.room());
                match step.map_err(|error| assembly.fault(error))? {
                    Step::NeedInput => break,
                    Step::Header(header) => assembly.begin(header)?,
                    Step::Page(pgno) => {
                        assembly.page(pgno)?;
                        if pgno.get() <= assembly.end_commit {
                            batches.page(pgno, assembly.page_size)?;
                        }
                    }
                }
            }
        }
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        listener(Progress::Read { bytes });
    }
    let (applied, end) = assembly.finish()?;
    batches.finish(end)?;
    Ok(applied)
}

/// The rules that hold between one file and the next.
pub(crate) struct Assembly {
    /// The files after the one that is being read.
    files: VecDeque<FileInfo>,
    file: FileInfo,
    /// The time that all files must be older than.
    before: Option<Timestamp>,
    /// How many pages the database has after the last file. Those beyond are not kept, so they
    /// are not written either: a file in between may have pages that no disk has room for.
    end_commit: u32,
    page_size: PageSize,
    previous: Option<Previous>,
    header: Option<Header>,
    /// How many pages the database had before this file.
    commit: u32,
    /// The lowest page that this file adds to the database and has not brought yet.
    next_new: u64,
    missing: Missing,
}

/// The file before the one that is being read.
#[derive(Clone, Copy)]
struct Previous {
    file: FileId,
    post_apply: Option<Checksum>,
}

impl Assembly {
    /// What applies `files`, the last of which leaves `end_commit` pages.
    pub(crate) fn new(files: &[FileInfo], before: Option<Timestamp>, end_commit: u32) -> Assembly {
        let mut files = files.iter().copied().collect::<VecDeque<FileInfo>>();
        Assembly {
            file: files.pop_front().expect("a plan has a file"),
            files,
            before,
            end_commit,
            page_size: PageSize::MIN,
            previous: None,
            header: None,
            commit: 0,
            next_new: 0,
            missing: Missing::default(),
        }
    }

    /// The same onto a database that has `commit` pages already.
    pub(crate) fn onto(self, commit: u32) -> Assembly {
        Assembly { commit, ..self }
    }

    pub(crate) fn fault(&self, fault: impl Into<Fault>) -> Damage {
        Damage::new(self.file.id, fault)
    }

    pub(crate) fn begin(&mut self, header: Header) -> Result<(), Damage> {
        check_name(self.file.id, &header)?;
        let misdated = |time| time <= header.timestamp();
        if self.before.is_some_and(misdated) {
            let header = header.timestamp();
            return Err(self.fault(Fault::Time { header }));
        }
        if let Some(previous) = self.previous {
            if header.page_size() != self.page_size {
                return Err(self.fault(Fault::PageSize {
                    found: header.page_size(),
                    expected: self.page_size,
                    before: previous.file,
                }));
            }
            // A file that overlaps the one before it starts from a state in the middle of that.
            let follows = previous.file.txids.max().next() == Some(self.file.id.txids.min());
            if let (true, Some(post_apply), Some(pre_apply)) =
                (follows, previous.post_apply, header.pre_apply())
                && post_apply != pre_apply
            {
                return Err(self.fault(Fault::Chain {
                    pre_apply,
                    post_apply,
                }));
            }
        }
        if self.files.is_empty() && header.commit() != self.end_commit {
            return Err(self.fault(Fault::Replaced));
        }
        self.page_size = header.page_size();
        self.header = Some(header);
        self.missing.truncate(header.commit());
        self.next_new = u64::from(self.commit) + 1;
        Ok(())
    }

    /// Takes a file that has all pages of the database.
    pub(crate) fn whole(&mut self, header: Header, trailer: Trailer) -> Result<(), Damage> {
        self.begin(header)?;
        self.next_new = u64::from(header.commit()) + 1;
        self.end(trailer);
        Ok(())
    }

    pub(crate) fn page(&mut self, pgno: Pgno) -> Result<(), Damage> {
        let number = u64::from(pgno.get());
        if number >= self.next_new {
            self.skip_to(number);
            self.next_new = number + 1;
        } else {
            self.missing.fill(pgno.get());
        }
        match self.missing.first() {
            // No replicator leaves so many holes for later files to fill.
            Some((pgno, file)) if self.missing.runs.len() > MISSING_RUNS_MAX => {
                Err(Damage::new(file, Fault::MissingPage { pgno }))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn end(&mut self, trailer: Trailer) {
        let commit = self.header.map_or(0, |header| header.commit());
        self.skip_to(u64::from(commit) + 1);
        self.commit = commit;
        self.previous = Some(Previous {
            file: self.file.id,
            post_apply: trailer.post_apply,
        });
        if let Some(next) = self.files.pop_front() {
            self.file = next;
        }
    }

    /// Notes the new pages before `number` that this file does not have. The lock page has no
    /// content, and is in no file.
    fn skip_to(&mut self, number: u64) {
        let lock_page = u64::from(self.page_size.lock_page().get());
        if (self.next_new..number).contains(&lock_page) {
            self.missing.add(self.next_new, lock_page, self.file.id);
            self.next_new = lock_page + 1;
        }
        self.missing.add(self.next_new, number, self.file.id);
    }

    pub(crate) fn finish(self) -> Result<(Applied, End), Damage> {
        if let Some((pgno, file)) = self.missing.first() {
            return Err(Damage::new(file, Fault::MissingPage { pgno }));
        }
        let header = self.header.expect("every file that has ended had a header");
        let end = End {
            file: self.file.id,
            page_size: self.page_size,
            commit: self.commit,
            checksum: self.previous.and_then(|previous| previous.post_apply),
        };
        Ok((Applied { header }, end))
    }
}

/// Runs of pages that are in the database and in no file so far, and the files that should have
/// had them: hardly ever any, and never many more than [`MISSING_RUNS_MAX`].
#[derive(Default)]
struct Missing {
    /// From the first page of a run to the page after its last, and the file.
    runs: BTreeMap<u64, (u64, FileId)>,
}

impl Missing {
    fn add(&mut self, start: u64, end: u64, file: FileId) {
        if start < end {
            self.runs.insert(start, (end, file));
        }
    }

    fn fill(&mut self, pgno: u32) {
        let pgno = u64::from(pgno);
        let run = self.runs.range(..=pgno).next_back();
        if let Some((&start, &(end, file))) = run.filter(|(_, (end, _))| pgno < *end) {
            self.runs.remove(&start);
            self.add(start, pgno, file);
            self.add(pgno + 1, end, file);
        }
    }

    /// Forgets the pages beyond `commit`, which are no part of the database any more.
    fn truncate(&mut self, commit: u32) {
        let end = u64::from(commit) + 1;
        self.runs.split_off(&end);
        if let Some(mut last) = self.runs.last_entry() {
            let run = last.get_mut();
            run.0 = run.0.min(end);
        }
    }

    fn first(&self) -> Option<(Pgno, FileId)> {
        let (&start, &(_, file)) = self.runs.first_key_value()?;
        Some((Pgno::new(u32::try_from(start).ok()?)?, file))
    }
}

/// Pages on their way to the file.
struct Batch {
    bytes: Vec<u8>,
    filled: usize,
    /// Pages that follow one another, in the batch as in the file: where in the file, how many
    /// bytes.
    runs: Vec<(u64, usize)>,
}

/// What the database must be once all files are applied.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// The file that applied last.
    file: FileId,
    page_size: PageSize,
    pub(crate) commit: u32,
    checksum: Option<Checksum>,
}

impl End {
    /// Holds the checksum of the database's pages against the one that the last file says, where
    /// it says one.
    pub(crate) fn check(&self, computed: Checksum) -> Result<(), Damage> {
        match self.checksum {
            Some(stored) if stored != computed => {
                let fault = Fault::DatabaseChecksum { stored, computed };
                Err(Damage::new(self.file, fault))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is something to check.
    pub(crate) fn has_checksum(&self) -> bool {
        self.checksum.is_some()
    }
}

enum ToWrite {
    Batch(Batch),
    End(End),
}

/// The batches, of which there are never more than [`BATCHES`].
struct Batches {
    current: Batch,
    made: usize,
    full: mpsc::SyncSender<ToWrite>,
    empty: mpsc::Receiver<Batch>,
}

impl Batch {
    fn new() -> Batch {
        Batch {
            bytes: vec![0; BATCH_BYTES],
            filled: 0,
            runs: Vec::new(),
        }
    }
}

impl Batches {
    fn new(full: mpsc::SyncSender<ToWrite>, empty: mpsc::Receiver<Batch>) -> Batches {
        Batches {
            current: Batch::new(),
            made: 1,
            full,
            empty,
        }
    }

    /// Where the next page goes: enough for one of any size.
    fn room(&mut self) -> &mut [u8] {
        self.current
            .bytes
            .get_mut(self.current.filled..)
            .unwrap_or_default()
    }

    /// Takes the page that was put into [`room`](Batches::room).
    fn page(&mut self, pgno: Pgno, page_size: PageSize) -> Result<(), Stopped> {
        let (offset, len) = (pgno.offset(page_size), page_size.bytes());
        let batch = &mut self.current;
        batch.filled += len;
        match batch.runs.last_mut() {
            Some((start, run)) if *start + *run as u64 == offset => *run += len,
            _ => batch.runs.push((offset, len)),
        }
        if batch.bytes.len() - batch.filled < PageSize::MAX.bytes() {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        let next = if self.made < BATCHES {
            self.made += 1;
            Batch::new()
        } else {
            self.empty.recv().map_err(|_| Stopped::Abandoned)?
        };
        let batch = std::mem::replace(&mut self.current, next);
        self.send(ToWrite::Batch(batch))
    }

    fn finish(mut self, end: End) -> Result<(), Stopped> {
        let batch = std::mem::replace(
            &mut self.current,
            Batch {
                bytes: Vec::new(),
                filled: 0,
                runs: Vec::new(),
            },
        );
        self.send(ToWrite::Batch(batch))?;
        self.send(ToWrite::End(end))
    }

    fn send(&mut self, message: ToWrite) -> Result<(), Stopped> {
        self.full.send(message).map_err(|_| Stopped::Abandoned)
    }
}

/// Writes batches until the database is whole and synced.
fn write(
    to_write: mpsc::Receiver<ToWrite>,
    written: mpsc::SyncSender<Batch>,
    into: &File,
    listener: &Listener,
) -> Result<(), Stopped> {
    let failed = |action| move |source| Stopped::Failed(Failure::Write { action, source });
    into.set_len(0).map_err(failed("write"))?;
    let mut since_writeback = 0;
    for message in to_write {
        let mut batch = match message {
            ToWrite::Batch(batch) => batch,
            ToWrite::End(end) => {
                let len = u64::from(end.commit) * u64::from(end.page_size.get());
                into.set_len(len).map_err(failed("write"))?;
                listener(Progress::Syncing);
                into.sync_all().map_err(failed("sync"))?;
                return check_database(into, end);
            }
        };
        let mut rest = batch.bytes.as_slice();
        for (offset, len) in batch.runs.drain(..) {
            let (run, after) = rest.split_at(len);
            into.write_all_at(run, offset).map_err(failed("write"))?;
            rest = after;
        }
        let bytes = batch.filled as u64;
        listener(Progress::Written { bytes });
        since_writeback += bytes;
        if since_writeback >= WRITEBACK_BYTES {
            since_writeback = 0;
            begin_writeback(into);
        }
        batch.filled = 0;
        // The decoder may have made its last one already.
        let _ = written.send(batch);
    }
    Err(Stopped::Abandoned)
}

/// Has the system begin to write what it was given, and waits for none of it.
fn begin_writeback(file: &File) {
    // An advice: that it was not taken costs time, and nothing else.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = file;
}

/// Whether the pages have the checksum that the last file says, where it says one.
fn check_database(database: &File, end: End) -> Result<(), Stopped> {
    if !end.has_checksum() {
        return Ok(());
    }
    let mut checksum = DatabaseChecksum::default();
    let mut bytes = vec![0; BATCH_BYTES];
    let per_read = (BATCH_BYTES / end.page_size.bytes()) as u64;
    let (mut next, last) = (1, u64::from(end.commit));
    while next <= last {
        let count = per_read.min(last - next + 1);
        let pages = bytes
            .get_mut(..count as usize * end.page_size.bytes())
            .unwrap_or_default();
        database
            .read_exact_at(pages, (next - 1) * u64::from(end.page_size.get()))
            .map_err(|source| {
                Stopped::Failed(Failure::Write {
                    action: "read back",
                    source,
                })
            })?;
        for (page, number) in pages.chunks_exact(end.page_size.bytes()).zip(next..) {
            let pgno = u32::try_from(number).ok().and_then(Pgno::new);
            if let Some(pgno) = pgno.filter(|pgno| *pgno != end.page_size.lock_page()) {
                checksum.add(Checksum::of_page(pgno, page));
            }
        }
        next += count;
    }
    Ok(end.check(checksum.get())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use replica_core::{Level, Txid, TxidRange};

    /// A file of every second new page, each of which compresses to nothing, made the notes of
    /// what is missing larger than itself.
    #[test]
    fn what_is_missing_is_noted_within_a_bound() {
        let infos = [1, 2].map(|txid| FileInfo {
            id: FileId {
                level: Level::RAW,
                txids: TxidRange::single(Txid::new(txid).unwrap()),
            },
            size: 1,
            created_at: Timestamp::EPOCH,
        });
        let header = |index: usize, commit| {
            Header::new(
                PageSize::MIN,
                commit,
                infos[index].id.txids,
                Timestamp::EPOCH,
            )
        };
        let trailer = Trailer {
            post_apply: None,
            file: Checksum::EMPTY,
        };
        let mut assembly = Assembly::new(&infos, None, u32::MAX);
        assembly.begin(header(0, 1)).unwrap();
        assembly.page(Pgno::new(1).unwrap()).unwrap();
        assembly.end(trailer);
        assembly.begin(header(1, u32::MAX)).unwrap();

        let mut pages = (3..u32::MAX).step_by(2).filter_map(Pgno::new);
        let refused = pages.find_map(|pgno| assembly.page(pgno).err());

        let damage = refused.expect("it should end long before the pages do");
        assert_eq!(damage.file, infos[1].id);
        assert_eq!(assembly.missing.runs.len(), MISSING_RUNS_MAX + 1);
    }
}
