//! The first 100 bytes of a file, and its last 16.

use crate::checksum::Checksum;
use crate::error::{Error, FileKind, Part};
use crate::page::PageSize;
use crate::timestamp::Timestamp;
use crate::txid::{Txid, TxidRange};

/// The length of a file's header in bytes.
pub const HEADER_SIZE: usize = 100;
/// The length of a file's trailer in bytes.
pub const TRAILER_SIZE: usize = 16;

const MAGIC: [u8; 4] = *b"LTX1";
const FLAG_NO_CHECKSUM: u32 = 0x2;
/// Where the reserved bytes begin, which go on to the end of the header.
const RESERVED: usize = 80;

/// What a file says of itself before its pages: of which database, which transactions, when.
///
/// Every value of this type is a valid header. [`Header::new`] begins with a file without
/// checksums, the kind that Litestream writes; the `with_` functions add what it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    page_size: PageSize,
    commit: u32,
    txids: TxidRange,
    timestamp: Timestamp,
    checksums: bool,
    pre_apply: Option<Checksum>,
    wal: Option<WalSpan>,
    node_id: u64,
}

impl Header {
    /// The header of a file without checksums that holds the transactions `txids` and leaves a
    /// database of `commit` pages.
    pub const fn new(
        page_size: PageSize,
        commit: u32,
        txids: TxidRange,
        timestamp: Timestamp,
    ) -> Header {
        Header {
            page_size,
            commit,
            txids,
            timestamp,
            checksums: false,
            pre_apply: None,
            wal: None,
            node_id: 0,
        }
    }

    /// The same header for a file with checksums: `pre_apply` is the database's before these
    /// transactions, which a snapshot has not and any other file must have.
    pub fn with_checksums(self, pre_apply: Option<Checksum>) -> Result<Header, Error> {
        if self.is_snapshot() == pre_apply.is_some() {
            return Err(Error::PreApply {
                stored: pre_apply.map_or(0, Checksum::get),
                file: self.kind(true),
            });
        }
        Ok(Header {
            checksums: true,
            pre_apply,
            ..self
        })
    }

    /// The same header for a file made of the frames in `wal`.
    pub const fn with_wal(self, wal: WalSpan) -> Header {
        Header {
            wal: Some(wal),
            ..self
        }
    }

    /// The same header with the number of the node that wrote the file. Litestream writes 0.
    pub const fn with_node_id(self, node_id: u64) -> Header {
        Header { node_id, ..self }
    }

    /// The size of the database's pages.
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// How many pages the database has after these transactions, the lock page included.
    pub const fn commit(&self) -> u32 {
        self.commit
    }

    /// The transactions that the file holds.
    pub const fn txids(&self) -> TxidRange {
        self.txids
    }

    /// When the last of the transactions was copied.
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Whether the file carries the database's checksums, before and after.
    pub const fn has_checksums(&self) -> bool {
        self.checksums
    }

    /// The checksum of the database before these transactions: `None` for a snapshot, and for a
    /// file without checksums.
    pub const fn pre_apply(&self) -> Option<Checksum> {
        self.pre_apply
    }

    /// The part of the WAL that the file was made of, where it was.
    pub const fn wal(&self) -> Option<WalSpan> {
        self.wal
    }

    /// The number of the node that wrote the file, or 0.
    pub const fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Whether the file begins with the first transaction, and so holds the whole database.
    pub fn is_snapshot(&self) -> bool {
        self.txids.min() == Txid::FIRST
    }

    /// Parses the header at the beginning of `file`, and checks every rule there is for one.
    pub fn parse(file: &[u8]) -> Result<Header, Error> {
        let Some((bytes, _)) = file.split_first_chunk::<HEADER_SIZE>() else {
            return Err(Error::Truncated {
                len: file.len() as u64,
                part: Part::Header,
            });
        };
        let mut fields = Fields(bytes);

        let magic = fields.take();
        if magic != MAGIC {
            return Err(Error::Magic { found: magic });
        }
        let flags = u32::from_be_bytes(fields.take());
        if flags & !FLAG_NO_CHECKSUM != 0 {
            return Err(Error::Flags { flags });
        }
        let page_size = u32::from_be_bytes(fields.take());
        let page_size = PageSize::new(page_size).ok_or(Error::PageSize { bytes: page_size })?;
        let commit = u32::from_be_bytes(fields.take());
        let [min, max] = [fields.take(), fields.take()].map(u64::from_be_bytes);
        let txids = Txid::new(min)
            .zip(Txid::new(max))
            .and_then(|(min, max)| TxidRange::new(min, max))
            .ok_or(Error::Txids { min, max })?;
        let timestamp = Timestamp::from_millis(i64::from_be_bytes(fields.take()));
        let pre_apply = u64::from_be_bytes(fields.take());
        let [offset, size] = [fields.take(), fields.take()].map(i64::from_be_bytes);
        let salts = [fields.take(), fields.take()].map(u32::from_be_bytes);
        let wal = WalSpan::parse(offset, size, salts)?;
        let node_id = u64::from_be_bytes(fields.take());
        if let Some(at) = fields.0.iter().position(|&byte| byte != 0) {
            return Err(Error::Reserved {
                offset: (RESERVED + at) as u64,
            });
        }

        let header = Header {
            wal,
            ..Header::new(page_size, commit, txids, timestamp).with_node_id(node_id)
        };
        let refused = |file| Error::PreApply {
            stored: pre_apply,
            file,
        };
        if flags & FLAG_NO_CHECKSUM != 0 {
            if pre_apply != 0 {
                return Err(refused(header.kind(false)));
            }
            return Ok(header);
        }
        let checksum = Checksum::new(pre_apply);
        if pre_apply != 0 && checksum.is_none() {
            return Err(refused(header.kind(true)));
        }
        header.with_checksums(checksum)
    }

    /// The header as it is stored.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let flags = if self.checksums { 0 } else { FLAG_NO_CHECKSUM };
        let (offset, size, salts) = match self.wal {
            Some(wal) => (wal.offset, wal.size, wal.salts),
            None => (0, 0, [0, 0]),
        };

        let mut bytes = Vec::with_capacity(HEADER_SIZE);
        bytes.extend(MAGIC);
        bytes.extend(flags.to_be_bytes());
        bytes.extend(self.page_size.get().to_be_bytes());
        bytes.extend(self.commit.to_be_bytes());
        bytes.extend(self.txids.min().get().to_be_bytes());
        bytes.extend(self.txids.max().get().to_be_bytes());
        bytes.extend(self.timestamp.as_millis().to_be_bytes());
        bytes.extend(self.pre_apply.map_or(0, Checksum::get).to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(size.to_be_bytes());
        bytes.extend(salts[0].to_be_bytes());
        bytes.extend(salts[1].to_be_bytes());
        bytes.extend(self.node_id.to_be_bytes());
        bytes.resize(HEADER_SIZE, 0);
        bytes.try_into().expect("the fields take 80 bytes")
    }

    /// What a file with this header is, as far as its checksums go.
    fn kind(&self, checksums: bool) -> FileKind {
        if !checksums {
            FileKind::WithoutChecksums
        } else if self.is_snapshot() {
            FileKind::Snapshot
        } else {
            FileKind::Incremental
        }
    }

    /// Checks the checksum after these transactions against the rules that need no pages.
    pub(crate) fn check_post_apply(&self, stored: u64) -> Result<Option<Checksum>, Error> {
        let checksum = Checksum::new(stored);
        let empty = self.commit == 0;
        match (self.checksums, checksum) {
            (false, _) if stored == 0 => Ok(None),
            (true, Some(checksum)) if !empty || checksum == Checksum::EMPTY => Ok(Some(checksum)),
            (checksums, _) => Err(Error::PostApply {
                stored,
                file: if checksums && empty {
                    FileKind::EmptyDatabase
                } else {
                    self.kind(checksums)
                },
            }),
        }
    }
}

/// The part of a WAL that a file was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    offset: i64,
    size: i64,
    salts: [u32; 2],
}

impl WalSpan {
    /// The `size` bytes of frames from byte `offset` of the WAL whose header has `salts`; `None`
    /// where the offset is 0 (that is the WAL's own header) or either is beyond an `i64`.
    pub fn new(offset: u64, size: u64, salts: [u32; 2]) -> Option<WalSpan> {
        let offset = i64::try_from(offset).ok().filter(|&offset| offset > 0)?;
        let size = i64::try_from(size).ok()?;
        Some(WalSpan {
            offset,
            size,
            salts,
        })
    }

    /// Where in the WAL the frames begin.
    pub const fn offset(self) -> u64 {
        self.offset.unsigned_abs()
    }

    /// How many bytes of the WAL the frames take.
    pub const fn size(self) -> u64 {
        self.size.unsigned_abs()
    }

    /// The salts of the WAL's header.
    pub const fn salts(self) -> [u32; 2] {
        self.salts
    }

    /// The fields as a header stores them; all zero is no span.
    fn parse(offset: i64, size: i64, salts: [u32; 2]) -> Result<Option<WalSpan>, Error> {
        if (offset, size, salts) == (0, 0, [0, 0]) {
            return Ok(None);
        }
        if offset <= 0 || size < 0 {
            return Err(Error::Wal {
                offset,
                size,
                salts,
            });
        }
        Ok(Some(WalSpan {
            offset,
            size,
            salts,
        }))
    }
}

/// What a file says after its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The checksum of the database after these transactions; `None` in a file without checksums.
    pub post_apply: Option<Checksum>,
    /// The checksum of the file's content.
    pub file: Checksum,
}

/// The rest of a header, taken field by field.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .expect("the fields take 80 of 100 bytes");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_a_header_has_its_place() {
        let txids = TxidRange::new(Txid::new(2).unwrap(), Txid::new(3).unwrap()).unwrap();
        let header = Header::new(PageSize::MAX, 4, txids, Timestamp::from_millis(-5))
            .with_wal(WalSpan::new(6, 7, [8, 9]).unwrap())
            .with_node_id(10)
            .with_checksums(Checksum::new(1 << 63 | 11))
            .unwrap();

        let bytes = header.encode();

        let mut wanted = [0; HEADER_SIZE];
        wanted[..4].copy_from_slice(b"LTX1");
        // Each number by its last byte, but for the negative one and the two with a high bit.
        wanted[9] = 1;
        for (at, byte) in [
            (15, 4),
            (23, 2),
            (31, 3),
            (47, 11),
            (55, 6),
            (63, 7),
            (67, 8),
            (71, 9),
            (79, 10),
        ] {
            wanted[at] = byte;
        }
        wanted[32..40].copy_from_slice(&(-5i64).to_be_bytes());
        wanted[40] = 0x80;
        assert_eq!(bytes, wanted);
        assert_eq!(Header::parse(&bytes), Ok(header));
    }

    #[test]
    fn a_header_gives_back_what_it_was_made_of() {
        let wal = WalSpan::new(32, 4152, [8, 9]).unwrap();
        let txids = TxidRange::single(Txid::FIRST);
        let header = Header::new(PageSize::MIN, 4, txids, Timestamp::from_millis(5))
            .with_wal(wal)
            .with_node_id(10);

        assert_eq!(header.page_size(), PageSize::MIN);
        assert_eq!(header.commit(), 4);
        assert_eq!(header.txids(), txids);
        assert_eq!(header.timestamp().as_millis(), 5);
        assert_eq!(header.wal(), Some(wal));
        assert_eq!((wal.offset(), wal.size(), wal.salts()), (32, 4152, [8, 9]));
        assert_eq!(header.node_id(), 10);
        assert_eq!(header.pre_apply(), None);
        assert!(header.is_snapshot() && !header.has_checksums());
        assert_eq!(header.encode()[4..8], [0, 0, 0, 2]);
    }
}
