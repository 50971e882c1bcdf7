//! The live database, as it was at a place in its log.

use std::path::PathBuf;

use ltx::{PageSize, Pgno, WalSpan};
use replica_core::Level;

use super::verdict::Doubt;
use crate::ReplicateError;
use crate::database::{Database, Frames, Observed};
use crate::replicate::{Newest, mark};
use crate::wal::{Chain, Changed, HEADER_SIZE, HeaderFault, WalHeader};

/// The end of a file of the replica, in the log that it was made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    end: Chain,
    /// How many pages the database has there.
    pages: u32,
}

/// What the database was at a place in its log, or is after all that is committed.
#[derive(Debug)]
pub(crate) struct LiveState {
    header: Result<WalHeader, HeaderFault>,
    /// How many frames of the log belong to it.
    frames: u32,
    page_size: PageSize,
    pages: u32,
    /// The pages that are in the log, and where.
    in_log: Option<(Changed, Frames)>,
    wal: PathBuf,
}

impl Place {
    /// Finds the place up to which the file `newest` goes, as far as it tells and the log has had
    /// the same content up to there.
    pub(crate) fn of(
        newest: &Newest,
        database: &Database,
    ) -> Result<Result<Place, Doubt>, ReplicateError> {
        let txid = newest.info.id.txids.max();
        let Some(header) = newest.header else {
            return Ok(Err(Doubt::NoPlace { txid }));
        };
        // Of files at other levels only the first one of all tells, which has a mark.
        let tells = newest.info.id.level == Level::RAW || header.node_id() != 0;
        let Some(span) = header.wal().filter(|_| tells) else {
            return Ok(Err(Doubt::NoPlace { txid }));
        };
        let observed = database.observe()?;
        let wal = match observed.header {
            Ok(wal) if observed.frames > 0 => wal,
            _ => return Ok(Err(Doubt::NewLog { txid })),
        };
        if wal.salts() != span.salts() || wal.page_size() != header.page_size() {
            return Ok(Err(Doubt::NewLog { txid }));
        }
        let frames = match frames_up_to(&span, &wal) {
            Some(frames) if frames < observed.backfilled => {
                return Ok(Err(Doubt::Checkpointed { txid }));
            }
            Some(frames) if frames <= observed.frames => frames,
            Some(_) => return Ok(Err(Doubt::ShorterLog { txid })),
            None => return Ok(Err(Doubt::NoPlace { txid })),
        };
        let (changes, _) = database.changes(Chain::new(wal), frames, u64::MAX)?;
        let changed = changes.finish();
        let ends = changed.end().frames() == frames;
        let pages = changed.commit().map(|commit| commit.get());
        let is_marked = match header.node_id() {
            // Litestream's, which says no more than the salts do.
            0 => true,
            marked => marked == mark(changed.end()),
        };
        if !ends || !is_marked || pages != Some(header.commit()) {
            return Ok(Err(Doubt::OtherLog { txid }));
        }
        Ok(Ok(Place {
            end: *changed.end(),
            pages: header.commit(),
        }))
    }

    /// How many bytes of the log come after it that were committed when that was `observed`. In a
    /// log that was begun anew since, there are none.
    pub(crate) fn lacks(&self, observed: &Observed) -> u64 {
        let header = self.end.header();
        let frames = match observed.header.as_ref() == Ok(header) {
            true => observed.frames.saturating_sub(self.end.frames()),
            false => 0,
        };
        u64::from(frames) * header.frame_size() as u64
    }
}

/// After how many frames of the log of `wal` the part `span` of it ends.
fn frames_up_to(span: &WalSpan, wal: &WalHeader) -> Option<u32> {
    let end = span.offset().checked_add(span.size())?;
    let bytes = end.checked_sub(HEADER_SIZE as u64)?;
    match bytes % wal.frame_size() as u64 {
        0 => u32::try_from(bytes / wal.frame_size() as u64).ok(),
        _ => None,
    }
}

impl LiveState {
    /// What the database was at `place`; without one, what it is now.
    pub(crate) fn at(
        place: Option<Place>,
        database: &Database,
    ) -> Result<LiveState, ReplicateError> {
        let observed = database.observe()?;
        let wal = database.wal_path().to_owned();
        let header = match (observed.header, place) {
            (Ok(header), Some(place)) if header != *place.end.header() => {
                return Err(database.unsteady());
            }
            (Ok(header), _) if observed.frames > 0 => header,
            (_, Some(_)) => return Err(database.unsteady()),
            // All of it is in the database file.
            (header, None) if observed.frames == 0 => {
                let (page_size, pages) = database.size()?;
                return Ok(LiveState {
                    header,
                    frames: 0,
                    page_size,
                    pages,
                    in_log: None,
                    wal,
                });
            }
            (Err(fault), None) => return Err(database.without_header(fault)),
            (Ok(header), None) => header,
        };
        let frames = place.map_or(observed.frames, |place| place.end.frames());
        let (changes, in_log) = database.changes(Chain::new(header), frames, u64::MAX)?;
        let changed = changes.finish();
        let pages = changed.commit().map(|commit| commit.get());
        let is_there =
            place.is_none_or(|place| *changed.end() == place.end && pages == Some(place.pages));
        let Some(pages) = pages.filter(|_| is_there) else {
            return Err(database.unsteady());
        };
        Ok(LiveState {
            header: Ok(header),
            frames,
            page_size: header.page_size(),
            pages,
            in_log: Some((changed, in_log)),
            wal,
        })
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Reads the pages from `first` on. Those in the log are there, and not in the database file,
    /// where they may be written at this very moment.
    pub(crate) fn read(
        &self,
        database: &Database,
        first: Pgno,
        out: &mut [u8],
    ) -> Result<(), ReplicateError> {
        database.read_pages(first, self.page_size, out)?;
        let Some((changed, frames)) = &self.in_log else {
            return Ok(());
        };
        let pages = changed.pages();
        let next = pages.partition_point(|page| page.pgno() < first);
        let mut frame = vec![0; changed.end().header().frame_size()];
        for page in pages.iter().skip(next) {
            let index = (page.pgno().get() - first.get()) as usize;
            let Some(place) = out.chunks_exact_mut(self.page_size.bytes()).nth(index) else {
                break;
            };
            let content = frames
                .read(page, changed.end(), &mut frame)
                .map_err(|fault| fault.at(self.wal.clone()))?;
            place.copy_from_slice(content);
        }
        Ok(())
    }

    /// Whether the database file has had nothing that was committed later, and the log all that
    /// this is made of, up to now.
    pub(crate) fn is_unmoved(&self, database: &Database) -> Result<bool, ReplicateError> {
        let now = database.observe()?;
        Ok(match now.header == self.header {
            true => now.backfilled <= self.frames && now.frames >= self.frames,
            false => false,
        })
    }
}
