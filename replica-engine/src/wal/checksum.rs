//! The checksum that runs through a WAL.

use std::fmt;

/// The byte order in which a WAL's checksums read its bytes: that of the machine that began it.
///
/// The checksums themselves, like all other numbers of a WAL, are stored big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The least significant byte first.
    Little,
    /// The most significant byte first.
    Big,
}

/// The checksum of a WAL from its beginning up to some frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalChecksum([u32; 2]);

impl WalChecksum {
    /// The checksum after `bytes` too. Bytes beyond the last multiple of eight don't count: a
    /// header and a page have none.
    #[must_use]
    pub fn and(self, bytes: &[u8], order: ByteOrder) -> WalChecksum {
        match order {
            ByteOrder::Little => self.fold(bytes, u32::from_le_bytes),
            ByteOrder::Big => self.fold(bytes, u32::from_be_bytes),
        }
    }

    /// The checksum stored in these eight bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> WalChecksum {
        let [a, b, c, d, e, f, g, h] = bytes;
        WalChecksum([[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes))
    }

    /// The eight bytes that store the checksum.
    pub fn to_bytes(self) -> [u8; 8] {
        let [[a, b, c, d], [e, f, g, h]] = self.0.map(u32::to_be_bytes);
        [a, b, c, d, e, f, g, h]
    }

    fn fold(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> WalChecksum {
        let WalChecksum([mut first, mut second]) = self;
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            first = first.wrapping_add(word([a, b, c, d])).wrapping_add(second);
            second = second.wrapping_add(word([e, f, g, h])).wrapping_add(first);
        }
        WalChecksum([first, second])
    }
}

impl fmt::Display for WalChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0;
        write!(f, "{first:08x}{second:08x}")
    }
}
