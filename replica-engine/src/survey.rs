//! What a replica has, by its names and a header or two; and whether a database has more.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ltx::{Header, Txid, WalSpan};
use replica_core::{FileInfo, Level, ReplicaClient};

use crate::check::RestorePoint;
use crate::damage::ReadFailure;
use crate::listing::{Listing, read_header};
use crate::plan::restore_points;
use crate::replicate::mark;
use crate::restore::run_blocking;
use crate::wal::{Chain, HEADER_SIZE, WalHeader};
use crate::{PlanError, RestorePlan, Target};

/// How often a log is read that changes meanwhile.
const ATTEMPTS_MAX: usize = 4;

/// What a replica has. No file was verified: that is what [`check`](crate::check) does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Survey {
    /// Each level that has files, from the lowest, with how many they are and how many bytes they
    /// have.
    pub levels: Vec<LevelSurvey>,
    /// The oldest and the newest state that can be restored.
    pub restorable: Option<(RestorePoint, RestorePoint)>,
    /// Why the latest state can't be restored, such as a gap, where it can't.
    pub unrestorable: Option<PlanError>,
    /// The end of the replica: the header of its last file, where that says of what it was made.
    end: Option<(Header, WalSpan)>,
}

/// What a replica has of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelSurvey {
    /// The level.
    pub level: Level,
    /// How many files it has.
    pub files: usize,
    /// How many bytes they have.
    pub bytes: u64,
}

/// What the log of a database says of its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// The replica has everything that is committed.
    Complete,
    /// The log has more. The last of it may be what a writer has left that died before anybody else
    /// saw it, which only SQLite's locks tell apart: it is committed once everybody has closed the
    /// database, or overwritten by the next one who writes.
    Behind {
        /// So many transactions.
        transactions: u64,
        /// So many bytes of the log.
        bytes: u64,
    },
    /// The log, which was begun anew since, has more. What the one before it had is not known.
    BehindAtLeast {
        /// So many transactions.
        transactions: u64,
        /// So many bytes of the log.
        bytes: u64,
    },
    /// It can't be told, and why.
    Unknown(&'static str),
}

impl Survey {
    /// Lists the replica behind `client`, and reads the headers of the files with its oldest and its
    /// newest state.
    ///
    /// # Errors
    ///
    /// That the store fails.
    pub async fn new(client: &dyn ReplicaClient) -> replica_core::Result<Survey> {
        let files = Listing::new(client).await?.files;
        let levels = Level::ALL.into_iter().filter_map(|level| {
            let of_level = files.iter().filter(|file| file.id.level == level);
            let sizes: Vec<u64> = of_level.map(|file| file.size).collect();
            (!sizes.is_empty()).then(|| LevelSurvey {
                level,
                files: sizes.len(),
                bytes: sizes.iter().sum(),
            })
        });
        let points = restore_points(&files);
        let ends = points.keys().next().zip(points.keys().next_back());
        let mut restorable = None;
        if let Some((&oldest, &newest)) = ends {
            restorable = Some((
                dated(client, &files, oldest).await?,
                dated(client, &files, newest).await?,
            ));
        }
        Ok(Survey {
            levels: levels.collect(),
            restorable,
            unrestorable: RestorePlan::new(Target::Latest, &files).err(),
            end: end(client, &files).await?,
        })
    }

    /// Whether there are no files at all.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Compares the log of `database` with where the replica ends. Nothing is changed, locked or
    /// opened by SQLite, so it can be asked while others replicate and write.
    ///
    /// # Errors
    ///
    /// That the database, or its log, can't be read.
    pub async fn standing(&self, database: impl Into<PathBuf>) -> io::Result<Standing> {
        let database = database.into();
        let Some((header, span)) = self.end else {
            // Whoever has not replicated it may have changed it all the same.
            std::fs::metadata(&database)?;
            return Ok(Standing::Unknown(
                "the replica's last file does not say which part of a log it was made of",
            ));
        };
        let standing = run_blocking(move || standing(&database, &header, &span)).await;
        standing.map_err(io::Error::other)?
    }
}

/// The state after `txid`, with the time of a file that ends with it.
async fn dated(
    client: &dyn ReplicaClient,
    files: &[FileInfo],
    txid: Txid,
) -> replica_core::Result<RestorePoint> {
    let ending = files.iter().filter(|file| file.id.txids.max() == txid);
    let Some(file) = ending.min_by_key(|file| file.id.level) else {
        unreachable!("a state that can be restored is the end of a file");
    };
    let created_at = match read_header(client, file.id).await {
        Ok(header) => header.timestamp(),
        // Whoever restores it is told.
        Err(ReadFailure::Damaged(_)) => file.created_at,
        Err(ReadFailure::Store(error)) => return Err(error),
    };
    Ok(RestorePoint { txid, created_at })
}

/// The header of the last file, and the part of a log that it was made of.
async fn end(
    client: &dyn ReplicaClient,
    files: &[FileInfo],
) -> replica_core::Result<Option<(Header, WalSpan)>> {
    let last = files.iter().max_by_key(|file| {
        let txids = file.id.txids;
        (txids.max(), std::cmp::Reverse(file.id.level), txids.min())
    });
    let Some(last) = last else {
        return Ok(None);
    };
    // What is put together is of several logs; the first file of all is of one, at level 9.
    if last.id.level != Level::RAW && last.id.txids.max() != Txid::FIRST {
        return Ok(None);
    }
    match read_header(client, last.id).await {
        Ok(header) => Ok(header.wal().map(|span| (header, span))),
        Err(ReadFailure::Damaged(_)) => Ok(None),
        Err(ReadFailure::Store(error)) => Err(error),
    }
}

fn standing(database: &Path, header: &Header, span: &WalSpan) -> io::Result<Standing> {
    // SQLite follows links, and puts the log beside what they lead to.
    let mut wal = database.canonicalize()?.into_os_string();
    wal.push("-wal");
    let mut before = begin(Path::new(&wal))?;
    for _ in 0..ATTEMPTS_MAX {
        let standing = match before {
            Some(log) => compare(Path::new(&wal), log, header, span)?,
            None => Standing::Unknown(
                "the database has no log at present, so nothing tells what was in it before",
            ),
        };
        let after = begin(Path::new(&wal))?;
        if before == after {
            return Ok(standing);
        }
        before = after;
    }
    Ok(Standing::Unknown("the log changes while it is being read"))
}

/// The header of the log, where there is one.
fn begin(wal: &Path) -> io::Result<Option<WalHeader>> {
    let mut bytes = [0; HEADER_SIZE];
    let read = File::open(wal).and_then(|mut file| file.read_exact(&mut bytes));
    match read {
        Ok(()) => Ok(WalHeader::parse(&bytes).ok()),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error),
        },
    }
}

/// Reads the log `log` to the end of what is committed.
fn compare(wal: &Path, log: WalHeader, header: &Header, span: &WalSpan) -> io::Result<Standing> {
    let [salt, _] = log.salts();
    let [copied, _] = span.salts();
    let is_same = log.salts() == span.salts() && log.page_size() == header.page_size();
    if !is_same && salt != copied.wrapping_add(1) {
        return Ok(Standing::Unknown(
            "the log is another one than the replica's last file was made of: it was begun anew \
             since, or the database is another one",
        ));
    }
    let copied = match is_same {
        true => span.offset().checked_add(span.size()),
        // The very next log, nothing of which is in the replica.
        false => Some(HEADER_SIZE as u64),
    };
    let mut file = io::BufReader::with_capacity(1 << 20, File::open(wal)?);
    file.read_exact(&mut [0; HEADER_SIZE])?;
    let mut frame = vec![0; log.frame_size()];
    let mut chain = Chain::new(log);
    let mut end = chain;
    let (mut transactions, mut reached) = (
        0,
        Some(chain).filter(|chain| Some(chain.offset()) == copied),
    );
    loop {
        match file.read_exact(&mut frame) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        let Ok(linked) = chain.link(&frame) else {
            break;
        };
        if linked.commit > 0 {
            transactions += u64::from(reached.is_some());
            end = chain;
        }
        if Some(chain.offset()) == copied {
            reached = Some(chain);
        }
    }
    let Some(reached) = reached else {
        return Ok(Standing::Unknown(
            "the log ends before the place up to which the replica has it: the database is older \
             than its replica",
        ));
    };
    if is_same && header.node_id() != 0 && header.node_id() != mark(&reached) {
        return Ok(Standing::Unknown(
            "the log has something else at the place that the replica's last file was made of",
        ));
    }
    let bytes = end.offset() - reached.offset();
    Ok(match (is_same, transactions) {
        (true, 0) => Standing::Complete,
        (true, _) => Standing::Behind {
            transactions,
            bytes,
        },
        (false, 0) => Standing::Unknown(
            "the log was begun anew since the replica's last file was made of it, and nothing tells \
             whether the one before had more",
        ),
        (false, _) => Standing::BehindAtLeast {
            transactions,
            bytes,
        },
    })
}
