//! What tells two contents apart without keeping them.

use crc_fast::{CrcAlgorithm, Digest};

/// The length and the checksum of the bytes so far.
///
/// The checksum is CRC-64/NVME. It must not be the CRC-64 that LTX files carry: a checksum over
/// bytes that end in their own checksum tells nothing of the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint {
    len: u64,
    checksum: Digest,
}

impl Fingerprint {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.checksum.update(bytes);
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }
}

/// The fingerprint of no bytes.
impl Default for Fingerprint {
    fn default() -> Fingerprint {
        Fingerprint {
            len: 0,
            checksum: Digest::new(CrcAlgorithm::Crc64Nvme),
        }
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Fingerprint) -> bool {
        self.len == other.len && self.checksum.finalize() == other.checksum.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(chunks: &[&[u8]]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        for chunk in chunks {
            fingerprint.update(chunk);
        }
        fingerprint
    }

    #[test]
    fn only_the_bytes_count() {
        assert_eq!(of(&[b"hello"]), of(&[b"he", b"", b"llo"]));
        assert_ne!(of(&[b"hello"]), of(&[b"hellp"]));
        assert_ne!(of(&[b"\0"]), of(&[b"\0\0"]));
    }

    #[test]
    fn bytes_that_end_in_their_own_crc_still_differ() {
        let closed = |bytes: &[u8]| {
            let crc = crc_fast::checksum(CrcAlgorithm::Crc64GoIso, bytes);
            of(&[bytes, &crc.to_le_bytes()])
        };

        assert_ne!(closed(b"one version"), closed(b"two version"));
    }
}
