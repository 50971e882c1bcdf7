//! Packets of SFTP version 3, as draft-ietf-secsh-filexfer-02 has them.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};

const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_PERMISSIONS: u32 = 4;
const HAS_TIMES: u32 = 8;

/// Why a request isn't done, as the protocol numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

impl From<io::Error> for Status {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // As OpenSSH answers to a path through a file, and to a name that is too long.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NoSuchFile,
            io::ErrorKind::InvalidFilename => Self::BadMessage,
            io::ErrorKind::PermissionDenied => Self::PermissionDenied,
            _ => Self::Failure,
        }
    }
}

/// What is answered where all went well.
pub(super) enum Reply {
    Done,
    Handle(u32),
    Data(Bytes),
    Attributes(Metadata),
    /// Names, and what is known of each.
    Names(Vec<(PathBuf, Option<Metadata>)>),
    Extended(Bytes),
}

/// Attributes that a client sets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) permissions: Option<u32>,
    /// Of access and modification, in seconds.
    pub(super) times: Option<(u32, u32)>,
}

/// What is left of a packet.
pub(super) struct Fields(pub(super) Bytes);

impl Fields {
    pub(super) fn u32(&mut self) -> Result<u32, Status> {
        self.0.try_get_u32().map_err(|_| Status::BadMessage)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Status> {
        self.0.try_get_u64().map_err(|_| Status::BadMessage)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, Status> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(Status::BadMessage);
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn text(&mut self) -> Result<String, Status> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Status::BadMessage)
    }

    pub(super) fn path(&mut self) -> Result<PathBuf, Status> {
        let bytes = self.bytes()?.to_vec();
        Ok(std::ffi::OsString::from_vec(bytes).into())
    }

    pub(super) fn handle(&mut self) -> Result<u32, Status> {
        let mut bytes = self.bytes()?;
        bytes.try_get_u32().map_err(|_| Status::Failure)
    }

    pub(super) fn attributes(&mut self) -> Result<Attributes, Status> {
        let flags = self.u32()?;
        let mut attributes = Attributes::default();
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(self.u64()?);
        }
        if flags & HAS_OWNER != 0 {
            // Who owns a file isn't a test's concern.
            self.u64()?;
        }
        if flags & HAS_PERMISSIONS != 0 {
            attributes.permissions = Some(self.u32()?);
        }
        if flags & HAS_TIMES != 0 {
            attributes.times = Some((self.u32()?, self.u32()?));
        }
        Ok(attributes)
    }
}

/// The packet, with its length, that answers a request.
pub(super) fn packet(id: u32, reply: Result<Reply, Status>) -> Bytes {
    let mut body = BytesMut::new();
    match reply {
        Ok(Reply::Done) => put_status(&mut body, id, 0, "Success"),
        Err(status) => put_status(&mut body, id, status as u32, &format!("{status:?}")),
        Ok(Reply::Handle(handle)) => {
            put_head(&mut body, HANDLE, id);
            put_bytes(&mut body, &handle.to_be_bytes());
        }
        Ok(Reply::Data(data)) => {
            put_head(&mut body, DATA, id);
            put_bytes(&mut body, &data);
        }
        Ok(Reply::Attributes(metadata)) => {
            put_head(&mut body, ATTRS, id);
            put_attributes(&mut body, Some(&metadata));
        }
        Ok(Reply::Names(names)) => {
            put_head(&mut body, NAME, id);
            body.put_u32(names.len() as u32);
            for (name, metadata) in names {
                put_bytes(&mut body, path_bytes(&name));
                put_bytes(&mut body, path_bytes(&name));
                put_attributes(&mut body, metadata.as_ref());
            }
        }
        Ok(Reply::Extended(data)) => {
            put_head(&mut body, EXTENDED_REPLY, id);
            body.extend_from_slice(&data);
        }
    }
    framed(&body)
}

/// A packet's bytes with their length before them.
pub(super) fn framed(body: &[u8]) -> Bytes {
    let mut packet = BytesMut::with_capacity(4 + body.len());
    put_bytes(&mut packet, body);
    packet.freeze()
}

pub(super) fn put_bytes(packet: &mut BytesMut, bytes: &[u8]) {
    packet.put_u32(bytes.len() as u32);
    packet.put_slice(bytes);
}

fn put_head(packet: &mut BytesMut, kind: u8, id: u32) {
    packet.put_u8(kind);
    packet.put_u32(id);
}

fn put_status(packet: &mut BytesMut, id: u32, code: u32, message: &str) {
    put_head(packet, STATUS, id);
    packet.put_u32(code);
    put_bytes(packet, message.as_bytes());
    put_bytes(packet, b"en");
}

fn put_attributes(packet: &mut BytesMut, metadata: Option<&Metadata>) {
    let Some(metadata) = metadata else {
        packet.put_u32(0);
        return;
    };
    packet.put_u32(HAS_SIZE | HAS_OWNER | HAS_PERMISSIONS | HAS_TIMES);
    packet.put_u64(metadata.size());
    packet.put_u32(metadata.uid());
    packet.put_u32(metadata.gid());
    packet.put_u32(metadata.mode());
    packet.put_u32(metadata.atime() as u32);
    packet.put_u32(metadata.mtime() as u32);
}

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}
