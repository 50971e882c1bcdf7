//! The SFTP protocol, version 3, as bytes: requests out, responses in. Nothing here does I/O.
//!
//! What a server sends is never trusted: each length is checked before anything is taken or
//! allocated.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The protocol's version, which OpenSSH and nearly every other server speaks.
pub(crate) const VERSION: u32 = 3;

/// The longest response that is taken. OpenSSH sends at most 256 KiB.
pub(crate) const FRAME_MAX: usize = 1 << 20;

/// The longest handle that is taken, as the protocol has it.
const HANDLE_MAX: usize = 256;

/// How much of a server's own words is kept.
const MESSAGE_MAX: usize = 200;

const INIT: u8 = 1;
const VERSION_REPLY: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

const OPEN_READ: u32 = 0x01;
const OPEN_WRITE: u32 = 0x02;
const OPEN_CREATE: u32 = 0x08;
const OPEN_EXCLUSIVE: u32 = 0x20;

const ATTR_SIZE: u32 = 0x01;
const ATTR_OWNER: u32 = 0x02;
const ATTR_PERMISSIONS: u32 = 0x04;
const ATTR_TIMES: u32 = 0x08;
const ATTR_EXTENDED: u32 = 0x8000_0000;

const KIND_MASK: u32 = 0o170_000;
const KIND_FOLDER: u32 = 0o040_000;
const KIND_FILE: u32 = 0o100_000;
const KIND_LINK: u32 = 0o120_000;

/// A request without its number, which the connection gives it.
#[derive(Debug)]
pub(crate) struct Request {
    kind: u8,
    head: Vec<u8>,
    /// The content of a WRITE, which is not copied until it is sent.
    data: Bytes,
    renames: bool,
}

impl Request {
    fn new(kind: u8, head: impl FnOnce(&mut Vec<u8>)) -> Request {
        let mut fields = Vec::new();
        head(&mut fields);
        Request {
            kind,
            head: fields,
            data: Bytes::new(),
            renames: false,
        }
    }

    fn of_path(kind: u8, path: &str) -> Request {
        Request::new(kind, |head| put_string(head, path.as_bytes()))
    }

    fn of_handle(kind: u8, handle: &[u8]) -> Request {
        Request::new(kind, |head| put_string(head, handle))
    }

    fn extended(name: &str, fields: &[&[u8]]) -> Request {
        Request::new(EXTENDED, |head| {
            put_string(head, name.as_bytes());
            for field in fields {
                put_string(head, field);
            }
        })
    }

    /// Opens a file for reading.
    pub(crate) fn open(path: &str) -> Request {
        Request::new(OPEN, |head| {
            put_string(head, path.as_bytes());
            head.put_u32(OPEN_READ);
            head.put_u32(0);
        })
    }

    /// Makes a file with the permissions `mode`, where nothing has the name yet.
    pub(crate) fn create(path: &str, mode: u32) -> Request {
        Request::new(OPEN, |head| {
            put_string(head, path.as_bytes());
            head.put_u32(OPEN_WRITE | OPEN_CREATE | OPEN_EXCLUSIVE);
            head.put_u32(ATTR_PERMISSIONS);
            head.put_u32(mode);
        })
    }

    pub(crate) fn close(handle: &[u8]) -> Request {
        Request::of_handle(CLOSE, handle)
    }

    pub(crate) fn read(handle: &[u8], offset: u64, len: u32) -> Request {
        Request::new(READ, |head| {
            put_string(head, handle);
            head.put_u64(offset);
            head.put_u32(len);
        })
    }

    pub(crate) fn write(handle: &[u8], offset: u64, data: Bytes) -> Request {
        let request = Request::new(WRITE, |head| {
            put_string(head, handle);
            head.put_u64(offset);
            put_len(head, data.len());
        });
        Request { data, ..request }
    }

    pub(crate) fn stat(path: &str) -> Request {
        Request::of_path(STAT, path)
    }

    pub(crate) fn lstat(path: &str) -> Request {
        Request::of_path(LSTAT, path)
    }

    pub(crate) fn fstat(handle: &[u8]) -> Request {
        Request::of_handle(FSTAT, handle)
    }

    /// Sets both times of an open file, in seconds since the epoch.
    pub(crate) fn set_times(handle: &[u8], seconds: u32) -> Request {
        Request::new(FSETSTAT, |head| {
            put_string(head, handle);
            head.put_u32(ATTR_TIMES);
            head.put_u32(seconds);
            head.put_u32(seconds);
        })
    }

    pub(crate) fn open_folder(path: &str) -> Request {
        Request::of_path(OPENDIR, path)
    }

    pub(crate) fn read_folder(handle: &[u8]) -> Request {
        Request::of_handle(READDIR, handle)
    }

    pub(crate) fn remove(path: &str) -> Request {
        Request::of_path(REMOVE, path)
    }

    pub(crate) fn make_folder(path: &str, mode: u32) -> Request {
        Request::new(MKDIR, |head| {
            put_string(head, path.as_bytes());
            head.put_u32(ATTR_PERMISSIONS);
            head.put_u32(mode);
        })
    }

    pub(crate) fn remove_folder(path: &str) -> Request {
        Request::of_path(RMDIR, path)
    }

    /// Asks where `path` leads to, in the one way there is to write that.
    pub(crate) fn real_path(path: &str) -> Request {
        Request::of_path(REALPATH, path)
    }

    /// Asks for nothing that matters: whether the server still answers.
    pub(crate) fn ping() -> Request {
        Request::real_path(".")
    }

    /// Renames, where nothing has the new name yet.
    pub(crate) fn rename(from: &str, to: &str) -> Request {
        let request = Request::new(RENAME, |head| {
            put_string(head, from.as_bytes());
            put_string(head, to.as_bytes());
        });
        Request {
            renames: true,
            ..request
        }
    }

    /// Renames, in place of whatever has the new name.
    pub(crate) fn replace(from: &str, to: &str) -> Request {
        let request = Request::extended(POSIX_RENAME, &[from.as_bytes(), to.as_bytes()]);
        Request {
            renames: true,
            ..request
        }
    }

    /// Whether it gives a file another name.
    pub(crate) fn renames(&self) -> bool {
        self.renames
    }

    pub(crate) fn sync(handle: &[u8]) -> Request {
        Request::extended(FSYNC, &[handle])
    }

    /// Asks for the file system that `path` is on.
    pub(crate) fn file_system(path: &str) -> Request {
        Request::extended(STATVFS, &[path.as_bytes()])
    }

    pub(crate) fn limits() -> Request {
        Request::extended(LIMITS, &[])
    }

    /// Appends the request to `out` under the number `id`.
    pub(crate) fn encode(&self, id: u32, out: &mut Vec<u8>) {
        put_len(out, 5 + self.head.len() + self.data.len());
        out.put_u8(self.kind);
        out.put_u32(id);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.data);
    }
}

/// The first bytes of a conversation: which version we speak.
pub(crate) fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    put_len(&mut out, 5);
    out.put_u8(INIT);
    out.put_u32(VERSION);
    out
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.put_u32(u32::try_from(len).expect("paths, handles and pieces are far below 4 GiB"));
}

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";
const LIMITS: &str = "limits@openssh.com";

/// What a server can do beyond the protocol, of what is of use here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    pub(crate) posix_rename: bool,
    pub(crate) fsync: bool,
    pub(crate) statvfs: bool,
    pub(crate) limits: bool,
}

/// The server's answer to [`hello`], without its length.
pub(crate) fn parse_hello(mut frame: Bytes) -> Result<Extensions, Malformed> {
    if take_u8(&mut frame)? != VERSION_REPLY || take_u32(&mut frame)? < VERSION {
        return Err(Malformed);
    }
    let mut extensions = Extensions::default();
    while frame.has_remaining() {
        let name = take_string(&mut frame)?;
        let version = take_string(&mut frame)?;
        match (name.as_ref(), version.as_ref()) {
            (name, b"1") if name == POSIX_RENAME.as_bytes() => extensions.posix_rename = true,
            (name, b"1") if name == FSYNC.as_bytes() => extensions.fsync = true,
            (name, b"2") if name == STATVFS.as_bytes() => extensions.statvfs = true,
            (name, b"1") if name == LIMITS.as_bytes() => extensions.limits = true,
            _ => {}
        }
    }
    Ok(extensions)
}

/// What a server says to a request.
#[derive(Debug)]
pub(crate) enum Response {
    Status(Status),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// How a request ended, in the server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u32,
    /// Cut, and without control characters.
    message: String,
}

impl Status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const BAD_MESSAGE: u32 = 5;
    pub(crate) const NO_CONNECTION: u32 = 6;
    pub(crate) const CONNECTION_LOST: u32 = 7;
    pub(crate) const UNSUPPORTED: u32 = 8;
    // Of later versions of the protocol, which some servers use in this one.
    pub(crate) const NO_SUCH_PATH: u32 = 10;
    pub(crate) const FILE_ALREADY_EXISTS: u32 = 11;
    pub(crate) const WRITE_PROTECT: u32 = 12;
    pub(crate) const NO_SPACE: u32 = 14;
    pub(crate) const QUOTA_EXCEEDED: u32 = 15;

    #[cfg(test)]
    pub(crate) fn of(code: u32) -> Status {
        let message = String::new();
        Status { code, message }
    }

    pub(crate) fn is_no_such_file(&self) -> bool {
        matches!(self.code, Status::NO_SUCH_FILE | Status::NO_SUCH_PATH)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.code)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Status {}

/// An entry of a folder.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) name: Bytes,
    pub(crate) attributes: Attributes,
}

/// What a server says of a file, as far as it says anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: Option<u64>,
    permissions: Option<u32>,
    /// When it was modified, in seconds since the epoch.
    pub(crate) modified: Option<u32>,
}

impl Attributes {
    #[cfg(test)]
    pub(crate) fn of(permissions: u32) -> Attributes {
        Attributes {
            permissions: Some(permissions),
            ..Attributes::default()
        }
    }

    /// What it is, or `None` where the server does not say.
    pub(crate) fn kind(&self) -> Option<Kind> {
        self.permissions.map(|bits| match bits & KIND_MASK {
            KIND_FOLDER => Kind::Folder,
            KIND_FILE => Kind::File,
            KIND_LINK => Kind::Link,
            _ => Kind::Other,
        })
    }
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    Other,
}

/// The sizes that a server takes and gives at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) read: u64,
    pub(crate) write: u64,
}

/// What a file system has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) bytes: u64,
    /// How many more files it takes, where it counts them.
    pub(crate) files: Option<u64>,
}

/// The bytes are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The number of the request, and the response to it. `frame` is without its length.
pub(crate) fn parse(mut frame: Bytes) -> Result<(u32, Response), Malformed> {
    let kind = take_u8(&mut frame)?;
    let id = take_u32(&mut frame)?;
    let response = match kind {
        STATUS => Response::Status(take_status(&mut frame)?),
        HANDLE => Response::Handle(take_handle(&mut frame)?),
        DATA => Response::Data(take_string(&mut frame)?),
        NAME => Response::Names(take_names(&mut frame)?),
        ATTRS => Response::Attributes(take_attributes(&mut frame)?),
        EXTENDED_REPLY => Response::Extended(frame),
        _ => return Err(Malformed),
    };
    Ok((id, response))
}

fn take_handle(frame: &mut Bytes) -> Result<Bytes, Malformed> {
    let handle = take_string(frame)?;
    match handle.len() <= HANDLE_MAX {
        true => Ok(handle),
        false => Err(Malformed),
    }
}

fn take_status(frame: &mut Bytes) -> Result<Status, Malformed> {
    let code = take_u32(frame)?;
    // Old servers leave the message out.
    let message = take_string(frame).unwrap_or_default();
    Ok(Status {
        code,
        message: readable(&message),
    })
}

/// At most [`MESSAGE_MAX`] characters that a terminal can show.
fn readable(message: &[u8]) -> String {
    let start = &message[..message.len().min(4 * MESSAGE_MAX)];
    let text = String::from_utf8_lossy(start);
    harmless(&text).take(MESSAGE_MAX).collect()
}

/// What a terminal shows of a text of the server's, and does not obey.
pub(crate) fn harmless(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|character| !character.is_control())
}

fn take_names(frame: &mut Bytes) -> Result<Vec<Name>, Malformed> {
    /// Two empty strings and no attributes.
    const NAME_MIN: usize = 12;
    let count = take_u32(frame)? as usize;
    if count > frame.remaining() / NAME_MIN {
        return Err(Malformed);
    }
    (0..count)
        .map(|_| {
            let name = take_string(frame)?;
            let _as_ls_shows_it = take_string(frame)?;
            let attributes = take_attributes(frame)?;
            Ok(Name { name, attributes })
        })
        .collect()
}

fn take_attributes(frame: &mut Bytes) -> Result<Attributes, Malformed> {
    let flags = take_u32(frame)?;
    let mut attributes = Attributes::default();
    if flags & ATTR_SIZE != 0 {
        attributes.size = Some(take_u64(frame)?);
    }
    if flags & ATTR_OWNER != 0 {
        take_u64(frame)?;
    }
    if flags & ATTR_PERMISSIONS != 0 {
        attributes.permissions = Some(take_u32(frame)?);
    }
    if flags & ATTR_TIMES != 0 {
        let _accessed = take_u32(frame)?;
        attributes.modified = Some(take_u32(frame)?);
    }
    if flags & ATTR_EXTENDED != 0 {
        for _ in 0..take_u32(frame)? {
            take_string(frame)?;
            take_string(frame)?;
        }
    }
    Ok(attributes)
}

/// The reply to [`Request::limits`]. A limit of 0 means that the server names none.
pub(crate) fn parse_limits(mut reply: Bytes) -> Result<Limits, Malformed> {
    let _packet = take_u64(&mut reply)?;
    let read = take_u64(&mut reply)?;
    let write = take_u64(&mut reply)?;
    Ok(Limits { read, write })
}

/// The reply to [`Request::file_system`].
pub(crate) fn parse_space(mut reply: Bytes) -> Result<Space, Malformed> {
    let _block_size = take_u64(&mut reply)?;
    let fragment_size = take_u64(&mut reply)?;
    let _blocks = take_u64(&mut reply)?;
    let _blocks_free = take_u64(&mut reply)?;
    let blocks_available = take_u64(&mut reply)?;
    let files = take_u64(&mut reply)?;
    let _files_free = take_u64(&mut reply)?;
    let files_available = take_u64(&mut reply)?;
    Ok(Space {
        bytes: fragment_size.saturating_mul(blocks_available),
        files: (files > 0).then_some(files_available),
    })
}

fn take_u8(frame: &mut Bytes) -> Result<u8, Malformed> {
    frame.try_get_u8().map_err(|_| Malformed)
}

fn take_u32(frame: &mut Bytes) -> Result<u32, Malformed> {
    frame.try_get_u32().map_err(|_| Malformed)
}

fn take_u64(frame: &mut Bytes) -> Result<u64, Malformed> {
    frame.try_get_u64().map_err(|_| Malformed)
}

fn take_string(frame: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = take_u32(frame)? as usize;
    if len > frame.remaining() {
        return Err(Malformed);
    }
    Ok(frame.split_to(len))
}

/// Cuts what arrives into frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: BytesMut,
}

impl Frames {
    pub(crate) fn push(&mut self, arrived: &[u8]) {
        self.buffer.extend_from_slice(arrived);
    }

    /// The next frame without its length, where it has arrived whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some((len, _)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*len) as usize;
        if len > FRAME_MAX {
            return Err(Malformed);
        }
        if self.buffer.len() < 4 + len {
            self.buffer.reserve(4 + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    #[test]
    fn frames_are_cut_wherever_their_bytes_arrive() {
        let mut sent = Vec::new();
        Request::remove("/a").encode(7, &mut sent);
        Request::ping().encode(8, &mut sent);

        for size in 1..sent.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for piece in sent.chunks(size) {
                frames.push(piece);
                while let Some(frame) = frames.next().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found.len(), 2, "in pieces of {size}");
            assert_eq!(found[0], b"\x0d\0\0\0\x07\0\0\0\x02/a"[..]);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_arrives() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_be_bytes());

        assert_eq!(frames.next(), Err(Malformed));
    }

    #[test]
    fn no_bytes_of_a_server_panic_or_allocate_much() {
        let names = b"\x68\0\0\0\x01\0\0\0\x01\0\0\0\x01a\0\0\0\0\0\0\0\x0c\0\0\x81\xa4\0\0\0\x01\0\0\0\x02";
        let (id, response) = parse(frame(names)).unwrap();
        assert_eq!(id, 1);
        let Response::Names(found) = response else {
            panic!("names are names");
        };
        assert_eq!(found[0].attributes.modified, Some(2));
        assert_eq!(found[0].attributes.kind(), Some(Kind::File));

        for len in 0..names.len() {
            assert!(parse(frame(&names[..len])).is_err(), "{len} bytes");
        }
        for index in 5..names.len() {
            let mut damaged = names.to_vec();
            damaged[index] = 0xff;
            // Whatever it is taken for.
            let _ = parse(frame(&damaged));
        }
        let many = b"\x68\0\0\0\x01\xff\xff\xff\xff";
        assert!(parse(frame(many)).is_err());
    }

    #[test]
    fn a_handle_that_is_too_long_is_refused() {
        for (len, is_taken) in [(0, true), (HANDLE_MAX, true), (HANDLE_MAX + 1, false)] {
            let mut bytes = b"\x66\0\0\0\x01".to_vec();
            put_string(&mut bytes, &vec![7; len]);

            assert_eq!(parse(frame(&bytes)).is_ok(), is_taken, "{len} bytes");
        }
    }

    #[test]
    fn a_servers_words_are_cut_and_have_no_control_characters() {
        let mut bytes = b"\x65\0\0\0\x01\0\0\0\x04".to_vec();
        put_string(&mut bytes, "\x1b[31mno\n".repeat(1000).as_bytes());

        let (_, response) = parse(frame(&bytes)).unwrap();

        let Response::Status(status) = response else {
            panic!("a status is a status");
        };
        let shown = status.to_string();
        assert!(shown.starts_with("status 4: [31mno[31mno"), "{shown}");
        assert!(shown.len() < 250);
    }
}
