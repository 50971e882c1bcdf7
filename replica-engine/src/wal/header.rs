//! The first 32 bytes of a WAL.

use ltx::PageSize;

use super::checksum::{ByteOrder, WalChecksum};

/// The length of a WAL's header in bytes.
pub const HEADER_SIZE: usize = 32;

/// The magic number, but for its last bit, which is the byte order.
const MAGIC: u32 = 0x377f_0682;
/// The only version of the format that there ever was.
const VERSION: u32 = 3_007_000;
/// What the header's own checksum covers.
const SUMMED: usize = 24;

/// What a WAL says of itself before its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    order: ByteOrder,
    page_size: PageSize,
    sequence: u32,
    salts: [u32; 2],
}

impl WalHeader {
    /// The header of a WAL.
    pub const fn new(
        order: ByteOrder,
        page_size: PageSize,
        sequence: u32,
        salts: [u32; 2],
    ) -> WalHeader {
        WalHeader {
            order,
            page_size,
            sequence,
            salts,
        }
    }

    /// Parses the header at the beginning of `wal`, and verifies its checksum.
    ///
    /// # Errors
    ///
    /// A [`HeaderFault`]. SQLite takes a WAL with any of them but a wrong version for an empty
    /// one, and for that one it refuses the database.
    pub fn parse(wal: &[u8]) -> Result<WalHeader, HeaderFault> {
        let Some((bytes, _)) = wal.split_first_chunk::<HEADER_SIZE>() else {
            return Err(HeaderFault::Short { len: wal.len() });
        };
        let [magic, version, page_size, sequence, salt_1, salt_2, ..] = words(bytes);

        let order = match magic {
            MAGIC => ByteOrder::Little,
            magic if magic == MAGIC | 1 => ByteOrder::Big,
            found => return Err(HeaderFault::Magic { found }),
        };
        let header = WalHeader {
            order,
            page_size: PageSize::new(page_size)
                .ok_or(HeaderFault::PageSize { found: page_size })?,
            sequence,
            salts: [salt_1, salt_2],
        };
        if bytes != &header.with_version(version) {
            return Err(HeaderFault::Checksum);
        }
        if version != VERSION {
            return Err(HeaderFault::Version { found: version });
        }
        Ok(header)
    }

    /// The header as it is stored.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        self.with_version(VERSION)
    }

    /// In which order its checksums read the bytes of the WAL.
    pub const fn order(&self) -> ByteOrder {
        self.order
    }

    /// The size of the database's pages.
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// How many WALs there were in this file before, as far as whoever began this one knew.
    pub const fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The two numbers that every frame of this WAL repeats. SQLite adds one to the first each
    /// time that it begins the WAL anew, and takes the second at random.
    pub const fn salts(&self) -> [u32; 2] {
        self.salts
    }

    /// How many bytes each frame takes.
    pub const fn frame_size(&self) -> usize {
        super::FRAME_HEADER_SIZE + self.page_size.bytes()
    }

    /// The header's own checksum, from which that of the first frame goes on.
    pub(super) fn checksum(&self) -> WalChecksum {
        let bytes = self.encode();
        let (summed, _) = bytes.split_at(SUMMED);
        WalChecksum::default().and(summed, self.order)
    }

    fn with_version(&self, version: u32) -> [u8; HEADER_SIZE] {
        let magic = match self.order {
            ByteOrder::Little => MAGIC,
            ByteOrder::Big => MAGIC | 1,
        };
        let [salt_1, salt_2] = self.salts;
        let fields = [
            magic,
            version,
            self.page_size.get(),
            self.sequence,
            salt_1,
            salt_2,
        ];
        let mut bytes = [0; HEADER_SIZE];
        let (summed, checksum) = bytes.split_at_mut(SUMMED);
        for (place, field) in summed.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        let sum = WalChecksum::default().and(summed, self.order);
        checksum.copy_from_slice(&sum.to_bytes());
        bytes
    }
}

/// Why bytes are not the header of a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// There are too few of them. A WAL without frames usually has no header either.
    #[error("it has {len} bytes, and a header takes 32")]
    Short {
        /// How many there are.
        len: usize,
    },
    /// They don't begin as a WAL does.
    #[error("it begins with {found:08x}, which no WAL does")]
    Magic {
        /// The first four.
        found: u32,
    },
    /// The page size is none.
    #[error("{found} is no page size")]
    PageSize {
        /// What it says.
        found: u32,
    },
    /// They were changed, or are still being written.
    #[error("its header's checksum is wrong")]
    Checksum,
    /// It is of a version that nobody knows.
    #[error("its version is {found}, and not 3007000")]
    Version {
        /// What it says.
        found: u32,
    },
}

fn words(bytes: &[u8; HEADER_SIZE]) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}
