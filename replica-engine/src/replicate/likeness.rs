//! Tells whether a database is the one that a replica is of, where its log does not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use ltx::{Header, PageSize, Pgno, Trailer};
use replica_core::{FileInfo, ReplicaClient};

use super::pending::lock;
use crate::damage::{Damage, ReadFailure};
use crate::database::Database;
use crate::verify::{Visit, show};
use crate::{ReplicateError, RestorePlan, Target};

/// How many bytes of files are read at most to find that out.
const READ_MAX: u64 = 64 * 1024 * 1024;
/// How many bytes of them are fetched before they are asked for.
const AHEAD: u64 = 1024 * 1024;
/// How many pages are enough.
const TELLING: u32 = 64;
/// How many bytes of a page are not zero where it tells anything: those of an empty table, and of
/// Litestream's two, are alike in many databases.
const FILLED: usize = 64;

/// Whether the database file has what the replica has: at least half of the pages that were stored
/// last, as far as they tell one database from another. So it is where a database was closed, and
/// its log removed with that, and written a little since. Those of another database of the same
/// application have the same tables and not the same rows. One that is so small that none of its
/// pages tells is it where all of them are the same.
pub(super) async fn is_like(
    database: &Arc<Mutex<Database>>,
    listed: &[FileInfo],
    client: &Arc<dyn ReplicaClient>,
) -> Result<bool, ReplicateError> {
    let Ok(plan) = RestorePlan::new(Target::Latest, listed) else {
        return Ok(false);
    };
    let mut likeness = Likeness {
        database: Arc::clone(database),
        page_size: PageSize::MAX,
        seen: BTreeSet::new(),
        buffer: Vec::new(),
        same: 0,
        others: 0,
        differs: false,
    };
    let mut left = READ_MAX;
    for file in plan.needed().iter().rev() {
        let Some(after) = left.checked_sub(file.size) else {
            likeness.differs = true;
            break;
        };
        left = after;
        likeness = match show(Arc::clone(client), *file, AHEAD, likeness).await {
            Ok((_, likeness)) => likeness,
            // Nothing tells then.
            Err(ReadFailure::Damaged(_)) => return Ok(false),
            Err(ReadFailure::Store(error)) => return Err(error.into()),
        };
        if likeness.same + likeness.others >= TELLING {
            break;
        }
    }
    Ok(match likeness.same + likeness.others {
        0 => !likeness.differs,
        _ => likeness.same >= likeness.others,
    })
}

/// Files, from the newest to the oldest, held against a database.
struct Likeness {
    database: Arc<Mutex<Database>>,
    page_size: PageSize,
    /// The pages of which a newer version was seen.
    seen: BTreeSet<Pgno>,
    buffer: Vec<u8>,
    same: u32,
    others: u32,
    /// Whether a page differs that does not tell, or was not looked at.
    differs: bool,
}

impl Visit for Likeness {
    fn begin(&mut self, header: Header) -> Result<(), Damage> {
        self.page_size = header.page_size();
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Damage> {
        // The first page has the tables, and counts the changes of all.
        let is_first = pgno.get() == 1;
        if self.same + self.others >= TELLING || !self.seen.insert(pgno) {
            return Ok(());
        }
        let tells = !is_first && page.iter().filter(|byte| **byte != 0).count() >= FILLED;
        self.buffer.resize(page.len(), 0);
        let database = lock(&self.database);
        let read = database.read_pages(pgno, self.page_size, &mut self.buffer);
        let is_same = read.is_ok() && self.buffer == page;
        match (tells, is_same) {
            (true, true) => self.same += 1,
            (true, false) => self.others += 1,
            (false, _) => self.differs |= !is_same,
        }
        Ok(())
    }

    fn end(&mut self, _: Trailer) {}
}
