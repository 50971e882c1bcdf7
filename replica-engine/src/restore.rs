//! Carries out a restore: plans, reads, writes, and plans again where a file is damaged.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ltx::Header;
use replica_core::{Error, ErrorKind, FileInfo, ReplicaClient, Timestamp, Txid};
use tokio::task::JoinHandle;

use crate::apply::{Applied, Assembly, Failure, apply};
use crate::damage::ReadFailure;
use crate::fetch::pieces;
use crate::integrity::check_integrity;
use crate::listing::{Listing, read_header, wait_for_listings};
use crate::plan::restore_points;
use crate::progress::Listener;
use crate::staged::{Destination, Staged};
use crate::verify::verify;
use crate::{
    Damage, Existing, Fault, Integrity, PlanError, Progress, RestoreError, RestorePlan, Target,
};

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
    wait_for_listings(client).await;
    let listing = list(client, target).await?;
    Ok(Choice::new(target, &listing)?.plan)
}

/// Restores a database from the replica behind `client`, and tells `progress` how it goes on.
///
/// Every byte that is used is verified before the database gets its name. A file that turns out
/// damaged or missing is left out, and the restore begins again with others that hold the same
/// transactions, if there are any. So the result is the database of exactly the transaction that
/// was asked for, or an error; never an older one. For a time, every file that is used is older
/// than that by its own header, unless it is a snapshot that was made later of the state that was
/// asked for; and the transaction after that state is newer, by its file's time in the listing and
/// in the header, or by the header of a file that was verified for that.
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
pub(crate) async fn rebuild(
    client: Arc<dyn ReplicaClient>,
    options: &RestoreOptions,
    staged: &Staged,
    listener: &Listener,
) -> Result<(RestorePlan, Applied, Vec<Damage>), RestoreError> {
    let mut damaged: Vec<Damage> = Vec::new();
    // What was stored before the restore began is a part of the latest state.
    wait_for_listings(&*client).await;
    let mut listing = list(&*client, options.target).await?;
    let mut choice = Choice::new(options.target, &listing)?;
    loop {
        let files = choice.plan.needed();
        listener(Progress::Planned {
            txid: choice.plan.txid(),
            files: files.len(),
            bytes: files.iter().map(|file| file.size).sum(),
        });
        let damage = match prove(&client, &choice, &listing, options).await? {
            Some(damage) => damage,
            None => match attempt(&client, &choice, options, staged, listener).await? {
                Ok(applied) => return Ok((choice.plan, applied, damaged)),
                Err(damage) => damage,
            },
        };
        listener(Progress::Damaged(damage.clone()));

        let gone = damage.fault == Fault::Missing;
        if matches!(damage.fault, Fault::Time { .. }) && !listing.is_from_headers() {
            // The times were wrong, and so was the plan.
            listing.read_headers(&*client).await?;
            choice = Choice::new(options.target, &listing)?;
            continue;
        }
        damaged.push(damage);
        let wanted = choice.plan.txid();
        if damaged.len() > REPLANS_MAX {
            return Err(lost(wanted, damaged, &listing));
        }
        if let Target::Time(time) = choice.target
            && listing.last_before(time) == Some(wanted)
        {
            // That is known without the damaged file.
            choice.target = Target::Txid(wanted);
        }
        if gone {
            // Somebody compacts or deletes: what is there now may go further.
            listing = list(&*client, choice.target).await?;
        }
        let sound = |file: &FileInfo| damaged.iter().all(|damage| damage.file != file.id);
        listing.files.retain(sound);
        choice.plan = match replan(choice.target, wanted, gone, &listing, &damaged) {
            Ok(plan) => plan,
            Err(None) => return Err(lost(wanted, damaged, &listing)),
            Err(Some((time, txid))) => {
                return Err(RestoreError::InDoubt {
                    time,
                    txid,
                    damaged,
                });
            }
        };
    }
}

fn lost(txid: Txid, damaged: Vec<Damage>, listing: &Listing) -> RestoreError {
    let is_sound = |file: &&FileInfo| damaged.iter().all(|damage| damage.file != file.id);
    let sound: Vec<FileInfo> = listing.files.iter().filter(is_sound).copied().collect();
    let points = restore_points(&sound);
    let before = points.range(..txid).next_back().map(|(txid, _)| *txid);
    RestoreError::Damaged {
        txid,
        damaged,
        before,
    }
}

/// The files that are restored, and what they were chosen for.
struct Choice {
    target: Target,
    plan: RestorePlan,
}

impl Choice {
    /// Chooses files for `target`; or for the transaction that it is known to be, where only a
    /// snapshot has the state that is too new by its own time.
    fn new(target: Target, listing: &Listing) -> Result<Choice, PlanError> {
        let plan = RestorePlan::new(target, &listing.files);
        if let Target::Time(time) = target
            && let Some(last) = listing.last_before(time)
            && plan.as_ref().map_or(true, |plan| plan.txid() < last)
            && let Ok(plan) = RestorePlan::new(Target::Txid(last), &listing.files)
        {
            let target = Target::Txid(last);
            return Ok(Choice { target, plan });
        }
        Ok(Choice {
            target,
            plan: plan?,
        })
    }
}

/// Reads the file that says that the transaction after the chosen ones is not from before the time
/// that was asked for, where nothing but its header does: damage may have changed that.
async fn prove(
    client: &Arc<dyn ReplicaClient>,
    choice: &Choice,
    listing: &Listing,
    options: &RestoreOptions,
) -> Result<Option<Damage>, RestoreError> {
    let Target::Time(time) = choice.target else {
        return Ok(None);
    };
    let next = listing.next_after(choice.plan.txid(), time);
    let Some(next) = next.filter(|_| listing.last_before(time).is_none()) else {
        return Ok(None);
    };
    match verify(Arc::clone(client), next, options.fetch_ahead).await {
        Ok(sound) if sound.header.timestamp() < time => {
            Ok(Some(Damage::new(next.id, Fault::Replaced)))
        }
        Ok(_) => Ok(None),
        Err(ReadFailure::Damaged(damage)) => Ok(Some(damage)),
        Err(ReadFailure::Store(error)) => Err(error.into()),
    }
}

/// Chooses among the files that are left in `listing` those that give the state that was `wanted`,
/// or one that proves to be the right one where that was planned by the time of a damaged file. The
/// error is that there are none, with the time and the last transaction that is left before it.
fn replan(
    target: Target,
    wanted: Txid,
    gone: bool,
    listing: &Listing,
    damaged: &[Damage],
) -> Result<RestorePlan, Option<(Timestamp, Txid)>> {
    let Target::Time(time) = target else {
        // The very same state from other files, whatever they are.
        let target = if gone { target } else { Target::Txid(wanted) };
        let plan = RestorePlan::new(target, &listing.files).ok();
        return plan.filter(|plan| plan.txid() >= wanted).ok_or(None);
    };
    // The time of a damaged file was a guess, or came from a header that nothing vouches for. So
    // the others decide again, and an older state is right only if they tell that the damaged
    // file was too new.
    let plan = RestorePlan::new(target, &listing.files).map_err(|_| None)?;
    let too_new =
        |damage: &Damage| damage.fault != Fault::Missing && listing.not_before(damage.file) >= time;
    let right = |damage: &Damage| damage.file.txids.max() <= plan.txid() || too_new(damage);
    if damaged.iter().all(right) {
        Ok(plan)
    } else {
        Err(Some((time, plan.txid())))
    }
}

async fn list(client: &dyn ReplicaClient, target: Target) -> replica_core::Result<Listing> {
    match target {
        Target::Latest | Target::Txid(_) => Listing::new(client).await,
        Target::Time(time) => Listing::around(client, time).await,
    }
}

/// Writes the database that the chosen files give into the staged file, or finds one of them damaged.
async fn attempt(
    client: &Arc<dyn ReplicaClient>,
    choice: &Choice,
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
    let (files, last) = (choice.plan.needed(), choice.plan.last());
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

    let before = match choice.target {
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
    joined(tokio::task::spawn_blocking(work)).await
}

/// Waits for what is done on another thread.
pub(crate) async fn joined<T>(task: JoinHandle<T>) -> replica_core::Result<T> {
    match task.await {
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
