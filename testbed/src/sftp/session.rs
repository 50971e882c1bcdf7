//! What the server does for each request.

use std::collections::HashMap;
use std::fs::{self, File, FileTimes, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::wire::{Attributes, Fields, Reply, Status, framed, packet, put_bytes};
use super::{HOME, Shared};

/// The bytes of a packet, at most, as OpenSSH has it.
const PACKET_MAX: usize = 256 << 10;
/// The bytes of a reply to one read, and of one write.
const PIECE_MAX: usize = 255 << 10;
/// One read in so many is answered with half of what there is, as a client must expect.
const SHORT_EVERY: u64 = 7;
/// How many files and folders a client may have open, as it is told.
const HANDLES_MAX: u64 = 1019;
/// The size of the blocks in which free space is told.
const BLOCK: u64 = 4096;

const INIT: u8 = 1;
const VERSION: u8 = 2;

const READ: u32 = 1;
const WRITE: u32 = 2;
const APPEND: u32 = 4;
const CREATE: u32 = 8;
const TRUNCATE: u32 = 16;
const EXCLUDE: u32 = 32;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";
const LIMITS: &str = "limits@openssh.com";
/// Extensions with the versions that OpenSSH announces.
const EXTENSIONS: [(&str, &str); 4] = [
    (POSIX_RENAME, "1"),
    (STATVFS, "2"),
    (FSYNC, "1"),
    (LIMITS, "1"),
];

/// One client's session.
pub(super) struct Session {
    shared: Arc<Shared>,
    open: HashMap<u32, Open>,
    next: u32,
}

enum Open {
    File(File),
    /// What is still to be listed of a folder.
    Folder(std::vec::IntoIter<(PathBuf, Option<Metadata>)>),
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            open: HashMap::new(),
            next: 0,
        }
    }

    /// Answers requests in the order in which they come, until the client ends.
    pub(super) async fn run(mut self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        // A client that breaks off ends its session and nothing else.
        let _ = self.answer_all(&mut stream).await;
        let _ = stream.shutdown().await;
    }

    async fn answer_all(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> io::Result<()> {
        loop {
            let length = stream.read_u32().await? as usize;
            if length == 0 || length > PACKET_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut request = vec![0; length];
            stream.read_exact(&mut request).await?;
            let mut request = Bytes::from(request);
            let kind = request.get_u8();
            let reply = if kind == INIT {
                self.version()
            } else {
                let mut fields = Fields(request);
                let Ok(id) = fields.u32() else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                packet(id, self.answer(kind, &mut fields))
            };
            stream.write_all(&reply).await?;
            stream.flush().await?;
        }
    }

    fn version(&self) -> Bytes {
        let state = self.shared.lock();
        let mut body = BytesMut::new();
        body.put_u8(VERSION);
        body.put_u32(3);
        for (name, version) in EXTENSIONS {
            if !state.refused.contains(name) {
                put_bytes(&mut body, name.as_bytes());
                put_bytes(&mut body, version.as_bytes());
            }
        }
        framed(&body)
    }

    fn answer(&mut self, kind: u8, fields: &mut Fields) -> Result<Reply, Status> {
        let extension = match kind {
            200 => fields.text()?,
            _ => String::new(),
        };
        let name = match kind {
            3 => "open",
            4 => "close",
            5 => "read",
            6 => "write",
            7 => "lstat",
            8 => "fstat",
            9 => "setstat",
            10 => "fsetstat",
            11 => "opendir",
            12 => "readdir",
            13 => "remove",
            14 => "mkdir",
            15 => "rmdir",
            16 => "realpath",
            17 => "stat",
            18 => "rename",
            19 => "readlink",
            20 => "symlink",
            200 => &*extension,
            _ => return Err(Status::Unsupported),
        };
        self.shared.count(name);
        match name {
            "open" => self.open(fields),
            "close" => {
                let handle = fields.handle()?;
                self.open.remove(&handle).ok_or(Status::Failure)?;
                Ok(Reply::Done)
            }
            "read" => self.read(fields),
            "write" => self.write(fields),
            "lstat" => Ok(Reply::Attributes(fs::symlink_metadata(self.path(fields)?)?)),
            "stat" => Ok(Reply::Attributes(fs::metadata(self.path(fields)?)?)),
            "fstat" => Ok(Reply::Attributes(self.file(fields)?.metadata()?)),
            "setstat" => {
                let path = self.path(fields)?;
                let attributes = fields.attributes()?;
                // Times can be set by a handle that only reads; a size can't.
                let writes = attributes.size.is_some();
                let file = OpenOptions::new().read(true).write(writes).open(path)?;
                set(&file, attributes)
            }
            "fsetstat" => {
                let handle = fields.handle()?;
                let attributes = fields.attributes()?;
                match self.open.get(&handle) {
                    Some(Open::File(file)) => set(file, attributes),
                    _ => Err(Status::Failure),
                }
            }
            "opendir" => {
                let path = self.path(fields)?;
                let mut entries = entries(&path)?;
                if let Some(missed) = self.shared.lock().missed.take() {
                    entries.retain(|(name, _)| *name != missed);
                    let folder = File::open(&path)?;
                    let later = folder.metadata()?.modified()? + Duration::from_secs(10);
                    folder.set_modified(later)?;
                }
                Ok(self.keep(Open::Folder(entries.into_iter())))
            }
            "readdir" => {
                let (page_max, names_alone, ends_with_nothing) = {
                    let state = self.shared.lock();
                    (state.page_max, state.names_alone, state.ends_with_nothing)
                };
                let handle = fields.handle()?;
                let Some(Open::Folder(entries)) = self.open.get_mut(&handle) else {
                    return Err(Status::Failure);
                };
                let shown = entries.by_ref().take(page_max);
                let page: Vec<_> = match names_alone {
                    true => shown.map(|(name, _)| (name, None)).collect(),
                    false => shown.collect(),
                };
                match page.is_empty() && !ends_with_nothing {
                    true => Err(Status::Eof),
                    false => Ok(Reply::Names(page)),
                }
            }
            "remove" => done(fs::remove_file(self.path(fields)?)),
            "mkdir" => done(fs::create_dir(self.path(fields)?)),
            "rmdir" => done(fs::remove_dir(self.path(fields)?)),
            "realpath" => {
                let path = fields.path()?;
                let real = fs::canonicalize(self.real(&path)?);
                let shown = match real
                    .as_deref()
                    .map(|real| real.strip_prefix(&self.shared.root))
                {
                    Ok(Ok(below)) => Path::new("/").join(below),
                    // What isn't there leads to itself, and so does what is elsewhere.
                    Ok(Err(_)) | Err(_) => absolute(&path),
                };
                Ok(Reply::Names(vec![(shown, None)]))
            }
            "rename" => {
                let (from, to) = (self.path(fields)?, self.path(fields)?);
                rename(&from, &to)
            }
            "readlink" => {
                let target = fs::read_link(self.path(fields)?)?;
                let shown = match target.strip_prefix(&self.shared.root) {
                    Ok(below) => Path::new("/").join(below),
                    Err(_) => target,
                };
                Ok(Reply::Names(vec![(shown, None)]))
            }
            "symlink" => {
                // The target comes first: OpenSSH's order, which is not the draft's.
                let target = fields.path()?;
                let link = self.path(fields)?;
                let target = match target.is_absolute() {
                    true => self.real(&target)?,
                    false => target,
                };
                done(symlink(target, link))
            }
            _ => self.extended(name, fields),
        }
    }

    fn extended(&mut self, name: &str, fields: &mut Fields) -> Result<Reply, Status> {
        let free = {
            let state = self.shared.lock();
            if state.refused.contains(name) {
                return Err(Status::Unsupported);
            }
            state.free
        };
        match name {
            POSIX_RENAME => {
                let (from, to) = (self.path(fields)?, self.path(fields)?);
                done(fs::rename(from, to))
            }
            // Nothing of a test has to outlive the machine, and a disk takes its time.
            FSYNC => self.file(fields).map(|_| Reply::Done),
            STATVFS => {
                fs::metadata(self.path(fields)?)?;
                let blocks = (1 << 40) / BLOCK;
                let free = free / BLOCK;
                let mut data = BytesMut::new();
                // Block and fragment size; blocks in all, free, and free to the user; files
                // likewise; the file system's id, flags, and the longest name.
                let files = [1 << 20, 1 << 20, 1 << 20];
                for space in [BLOCK, BLOCK, blocks.max(free), free, free] {
                    data.put_u64(space);
                }
                for other in files.into_iter().chain([1, 0, 255]) {
                    data.put_u64(other);
                }
                Ok(Reply::Extended(data.freeze()))
            }
            LIMITS => {
                let mut data = BytesMut::new();
                let piece_max = PIECE_MAX as u64;
                for limit in [PACKET_MAX as u64, piece_max, piece_max, HANDLES_MAX] {
                    data.put_u64(limit);
                }
                Ok(Reply::Extended(data.freeze()))
            }
            _ => Err(Status::Unsupported),
        }
    }

    /// Opens a file, or as OpenSSH does a folder too, which then can't be read as one.
    fn open(&mut self, fields: &mut Fields) -> Result<Reply, Status> {
        let path = self.path(fields)?;
        let flags = fields.u32()?;
        let attributes = fields.attributes()?;
        let has = |flag| flags & flag != 0;
        let file = OpenOptions::new()
            .read(has(READ))
            .write(has(WRITE) && !has(APPEND))
            .append(has(APPEND))
            .create(has(CREATE))
            .create_new(has(CREATE) && has(EXCLUDE))
            .truncate(has(TRUNCATE) && has(WRITE) && !has(APPEND))
            .mode(attributes.permissions.unwrap_or(0o666) & 0o777)
            .open(&path)?;
        Ok(self.keep(Open::File(file)))
    }

    fn read(&self, fields: &mut Fields) -> Result<Reply, Status> {
        let file = self.file(fields)?;
        let offset = fields.u64()?;
        let length = (fields.u32()? as usize).min(PIECE_MAX);
        let reads = self.shared.lock().requests.get("read").copied();
        let is_short = reads.is_some_and(|reads| reads % SHORT_EVERY == 0);
        let length = match is_short {
            true => length.div_ceil(2),
            false => length,
        };
        let mut data = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut data[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 && length > 0 {
            return Err(Status::Eof);
        }
        data.truncate(filled);
        Ok(Reply::Data(data.into()))
    }

    fn write(&self, fields: &mut Fields) -> Result<Reply, Status> {
        let file = self.file(fields)?;
        let offset = fields.u64()?;
        let data = fields.bytes()?;
        if let Some(writable) = &mut self.shared.lock().writable {
            *writable = writable
                .checked_sub(data.len() as u64)
                .ok_or(Status::Failure)?;
        }
        done(file.write_all_at(&data, offset))
    }

    fn keep(&mut self, open: Open) -> Reply {
        self.next += 1;
        self.open.insert(self.next, open);
        Reply::Handle(self.next)
    }

    /// The open file that a request names.
    fn file(&self, fields: &mut Fields) -> Result<&File, Status> {
        match self.open.get(&fields.handle()?) {
            Some(Open::File(file)) => Ok(file),
            _ => Err(Status::Failure),
        }
    }

    /// The path of a request in our file system, unless it is denied.
    fn path(&self, fields: &mut Fields) -> Result<PathBuf, Status> {
        self.real(&fields.path()?)
    }

    fn real(&self, path: &Path) -> Result<PathBuf, Status> {
        let path = absolute(path);
        let denied = &self.shared.lock().denied;
        if denied.iter().any(|denied| path.starts_with(denied)) {
            return Err(Status::PermissionDenied);
        }
        let below = path.strip_prefix("/").unwrap_or(&path);
        // Nothing joined would end in a slash, and name a folder even where a file is meant.
        Ok(match below.as_os_str().is_empty() {
            true => self.shared.root.clone(),
            false => self.shared.root.join(below),
        })
    }
}

/// A path from the client's root on, without `.` and `..`.
fn absolute(path: &Path) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for component in Path::new(HOME).join(path).components() {
        match component {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => {
                absolute.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    absolute
}

/// What a folder holds, `.` and `..` included, as OpenSSH lists it.
fn entries(path: &Path) -> io::Result<Vec<(PathBuf, Option<Metadata>)>> {
    let metadata = fs::metadata(path)?;
    let mut entries = vec![
        (PathBuf::from("."), Some(metadata.clone())),
        (PathBuf::from(".."), Some(metadata)),
    ];
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // An entry may be gone by now.
        if let Ok(metadata) = entry.metadata() {
            entries.push((entry.file_name().into(), Some(metadata)));
        }
    }
    Ok(entries)
}

/// Renames where nothing has the new name: version 3 replaces nothing.
fn rename(from: &Path, to: &Path) -> Result<Reply, Status> {
    if fs::symlink_metadata(from)?.is_file() {
        // A link isn't made where there is something, so nothing is replaced in between.
        fs::hard_link(from, to)?;
        return done(fs::remove_file(from));
    }
    match fs::symlink_metadata(to) {
        Ok(_) => Err(Status::Failure),
        Err(_) => done(fs::rename(from, to)),
    }
}

fn set(file: &File, attributes: Attributes) -> Result<Reply, Status> {
    if let Some(size) = attributes.size {
        file.set_len(size)?;
    }
    if let Some(permissions) = attributes.permissions {
        file.set_permissions(Permissions::from_mode(permissions & 0o7777))?;
    }
    if let Some((accessed, modified)) = attributes.times {
        let time = |seconds: u32| UNIX_EPOCH + Duration::from_secs(seconds.into());
        let times = FileTimes::new()
            .set_accessed(time(accessed))
            .set_modified(time(modified));
        file.set_times(times)?;
    }
    Ok(Reply::Done)
}

fn done(result: io::Result<()>) -> Result<Reply, Status> {
    result?;
    Ok(Reply::Done)
}
