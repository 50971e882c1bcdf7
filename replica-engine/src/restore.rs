//! Carries out a restore: plans, reads, writes, and plans again where a file is damaged.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ltx::Header;
use replica_core::{Error, ErrorKind, FileInfo, ReplicaClient, Timestamp, Txid};

use crate::apply::{Applied, Assembly, Failure, apply};
use crate::damage::ReadFailure;
use crate::fetch::pieces;
use crate::integrity::check_integrity;
use crate::listing::{Listing, read_header};
use crate::progress::Listener;
use crate::staged::{Destination, Staged};
use crate::verify::verify;
use crate::{Damage, Existing, Fault, Integrity, Progress, RestoreError, RestorePlan, Target};

/// How often files are chosen anew because one of them was damaged or gone.
const REPLANS_MAX: usize = 32;

/// What to restore, and to where.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// The path of the database to be made.
    pub output: PathBuf,
    /// The state that is wanted; the latest, unless it is set.
    pub target: Target,
    /// What to do with a database that is there already; nothing, and fail, unless it is set.
    pub existing: Existing,
    /// Whether SQLite checks the database before it gets its name; it doesn't, unless it is set.
    pub integrity: Integrity,
    /// The permissions of a new database; 0600, unless they are set. One that replaces another has
    /// those of the other.
    pub mode: u32,
    /// How many bytes are fetched before they are needed; 16 MiB, unless it is set. A restore takes
    /// about one and a half times as much memory, and besides it 4 MiB for pages, the listing, and
    /// at most a few MiB to note pages that a file should have had.
    pub fetch_ahead: u64,
}

impl RestoreOptions {
    /// Restores the latest state to `output`, where nothing must be yet.
    pub fn new(output: impl Into<PathBuf>) -> RestoreOptions {
        RestoreOptions {
            output: output.into(),
            target: Target::Latest,
            existing: Existing::default(),
            integrity: Integrity::default(),
            mode: 0o600,
            fetch_ahead: 16 * 1024 * 1024,
        }
    }
}

/// What was restored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Restored {
    /// The transaction whose state it is.
    pub txid: Txid,
    /// When that was copied, by the header of the last file.
    pub created_at: Timestamp,
    /// The database's page size in bytes.
    pub page_size: u32,
    /// How many pages it has.
    pub pages: u32,
    /// Its size.
    pub bytes: u64,
    /// The files it is made of, in the order in which they apply.
    pub files: Vec<FileInfo>,
    /// The files that could not be used, where others held the same transactions.
    pub damaged: Vec<Damage>,
}

/// Chooses the files that [`restore`] would read, and reads none of them but headers.
///
/// # Errors
///
/// [`RestoreError::Plan`] where no files give `target`, and [`RestoreError::Store`].
pub async fn plan(client: &dyn ReplicaClient, target: Target) -> Result<RestorePlan, RestoreError> {
    Ok(RestorePlan::new(
        target,
        &list(client, target).await?.files,
    )?)
}

/// Restores a database from the replica behind `client`, and tells `progress` how it goes on.
///
/// Every byte that is used is verified before the database gets its name. A file that turns out
/// damaged or missing is left out, and the restore begins again with others that hold the same
/// transactions, if there are any. So the result is the database of exactly the transaction that
/// was asked for, or an error; never an older one. For a time, every file that is used is older
/// than that by its own header.
///
/// The database is written to a temporary file beside `output`, synced, and renamed. A restore
/// that fails, is dropped or killed leaves nothing under the name; only one that is killed leaves
/// the temporary file, which a later restore into the same folder removes. Dropping the future
/// stops the work soon.
///
/// `progress` is called from several threads, and holds up the restore while it runs.
///
/// Errors of the store that another attempt might not meet end the restore: give it a client that
/// retries. It must be awaited in a Tokio runtime.
///
/// # Errors
///
/// Any [`RestoreError`]. Those about `output` come before anything is fetched.
pub async fn restore(
    client: Arc<dyn ReplicaClient>,
    options: &RestoreOptions,
    progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Restored, RestoreError> {
    let listener: Listener = Arc::new(progress);
    let (output, existing, mode) = (options.output.clone(), options.existing, options.mode);
    let mut staged = run_blocking(move || {
        let destination = Destination::new(&output, existing)?;
        Staged::new(destination, mode)
    })
    .await??;

    let (plan, applied, damaged) = rebuild(client, options, &staged, &listener).await?;

    if options.integrity != Integrity::Unchecked {
        listener(Progress::Checking);
        check_integrity(staged.path(), options.integrity).await?;
    }
    let publication = staged.publication();
    run_blocking(move || publication.publish()).await??;

    let header = applied.header;
    Ok(Restored {
        txid: plan.txid(),
        created_at: header.timestamp(),
        page_size: header.page_size().get(),
        pages: header.commit(),
        bytes: database_bytes(&header),
        files: plan.needed().to_vec(),
        damaged,
    })
}

/// Writes the database into the staged file, from other files where some are damaged.
async fn rebuild(
    client: Arc<dyn ReplicaClient>,
    options: &RestoreOptions,
    staged: &Staged,
    listener: &Listener,
) -> Result<(RestorePlan, Applied, Vec<Damage>), RestoreError> {
    let mut damaged: Vec<Damage> = Vec::new();
    let mut listing = list(&*client, options.target).await?;
    let mut plan = RestorePlan::new(options.target, &listing.files)?;
    loop {
        let files = plan.needed();
        listener(Progress::Planned {
            txid: plan.txid(),
            files: files.len(),
            bytes: files.iter().map(|file| file.size).sum(),
        });
        let damage = match attempt(&client, files, options, staged, listener).await? {
            Ok(applied) => return Ok((plan, applied, damaged)),
            Err(damage) => damage,
        };
        listener(Progress::Damaged(damage.clone()));

        let gone = damage.fault == Fault::Missing;
        if matches!(damage.fault, Fault::Time { .. }) && !listing.from_headers {
            // The times were wrong, and so was the plan.
            listing.read_headers(&*client).await?;
            plan = RestorePlan::new(options.target, &listing.files)?;
            continue;
        }
        damaged.push(damage);
        let wanted = plan.txid();
        let lost = |damaged| RestoreError::Damaged {
            txid: wanted,
            damaged,
        };
        if damaged.len() > REPLANS_MAX {
            return Err(lost(damaged));
        }
        if gone {
            // Somebody compacts or deletes: what is there now may go further.
            listing = list(&*client, options.target).await?;
        }
        let sound = |file: &FileInfo| damaged.iter().all(|damage| damage.file != file.id);
        listing.files.retain(sound);
        plan = match replan(options.target, wanted, gone, &listing, &damaged) {
            Some(plan) => plan,
            None => return Err(lost(damaged)),
        };
    }
}

/// Chooses among the files that are left in `listing` those that give the state that was `wanted`,
/// or one that proves to be the right one where that was planned by the time of a damaged file.
fn replan(
    target: Target,
    wanted: Txid,
    gone: bool,
    listing: &Listing,
    damaged: &[Damage],
) -> Option<RestorePlan> {
    let Target::Time(time) = target else {
        // The very same state from other files, whatever they are.
        let target = if gone { target } else { Target::Txid(wanted) };
        let plan = RestorePlan::new(target, &listing.files).ok()?;
        return (plan.txid() >= wanted).then_some(plan);
    };
    // The time of a damaged file was a guess, or came from a header that nothing vouches for. So
    // the others decide again, and an older state is right only if they tell that the damaged
    // file was too new.
    let plan = RestorePlan::new(target, &listing.files).ok()?;
    let too_new =
        |damage: &Damage| damage.fault != Fault::Missing && listing.not_before(damage.file) >= time;
    let right = |damage: &Damage| damage.file.txids.max() <= plan.txid() || too_new(damage);
    damaged.iter().all(right).then_some(plan)
}

async fn list(client: &dyn ReplicaClient, target: Target) -> replica_core::Result<Listing> {
    match target {
        Target::Latest | Target::Txid(_) => Listing::new(client).await,
        Target::Time(time) => Listing::around(client, time).await,
    }
}

/// Writes the database that `files` give into the staged file, or finds one of them damaged.
async fn attempt(
    client: &Arc<dyn ReplicaClient>,
    files: &[FileInfo],
    options: &RestoreOptions,
    staged: &Staged,
    listener: &Listener,
) -> Result<Result<Applied, Damage>, RestoreError> {
    // What an attempt before this one has written must not count as space that is taken.
    let file = staged.file();
    let emptied = run_blocking(move || file.set_len(0)).await?;
    emptied.map_err(|source| RestoreError::Write {
        action: "write",
        path: staged.destination().path().to_owned(),
        source,
    })?;
    let last = *files.last().expect("a plan has a file");
    let header = match read_header(&**client, last.id).await {
        Ok(header) => header,
        Err(ReadFailure::Damaged(damage)) => return Ok(Err(damage)),
        Err(ReadFailure::Store(error)) => return Err(error.into()),
    };
    let disk_full = |available| RestoreError::DiskFull {
        path: staged.destination().path().to_owned(),
        needed: database_bytes(&header),
        available,
    };
    let available = staged.destination().available();
    if let Some(available) = available.filter(|available| *available < database_bytes(&header)) {
        // The header may be wrong, and that is not known before its file was read.
        return match verify(Arc::clone(client), last, options.fetch_ahead).await {
            Ok(_) => Err(disk_full(available)),
            Err(ReadFailure::Damaged(damage)) => Ok(Err(damage)),
            Err(ReadFailure::Store(error)) => Err(error.into()),
        };
    }

    let before = match options.target {
        Target::Time(time) => Some(time),
        Target::Latest | Target::Txid(_) => None,
    };
    let pieces = pieces(Arc::clone(client), files.to_vec(), options.fetch_ahead);
    let assembly = Assembly::new(files, before, header.commit());
    let applied = apply(assembly, pieces, staged.file(), Arc::clone(listener)).await;
    match applied {
        Ok(applied) => Ok(Ok(applied)),
        Err(Failure::Read(ReadFailure::Damaged(damage))) => Ok(Err(damage)),
        Err(Failure::Read(ReadFailure::Store(error))) => Err(error.into()),
        Err(Failure::Write { source, .. }) if is_full(&source) => {
            Err(disk_full(staged.destination().available().unwrap_or(0)))
        }
        Err(Failure::Write { action, source }) => Err(RestoreError::Write {
            action,
            path: staged.destination().path().to_owned(),
            source,
        }),
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn database_bytes(header: &Header) -> u64 {
    u64::from(header.commit()) * u64::from(header.page_size().get())
}

/// Does blocking work on a thread for that.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> replica_core::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                "the runtime is shutting down",
            )),
        },
    }
}
