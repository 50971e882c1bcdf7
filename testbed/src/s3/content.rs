//! What an object consists of, without the memory for it where it is generated.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

/// The bytes that are made at once.
const CHUNK_MAX: u64 = 1 << 20;
const ALGORITHM: CrcAlgorithm = CrcAlgorithm::Crc64Nvme;
/// An odd number, so that multiplying by it loses nothing.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// What undoes it.
const INVERSE: u64 = inverse(FACTOR);
/// Where the pattern is recognized: far beyond what is uploaded.
const PATTERN_MAX: u64 = 1 << 48;

/// Those bytes of an endless pattern in which every place looks different, made as they are asked
/// for.
pub fn pattern(range: Range<u64>) -> Bytes {
    let first = range.start / 8;
    let last = range.end.div_ceil(8);
    let mut bytes = BytesMut::with_capacity(((last.saturating_sub(first)) * 8) as usize);
    for index in first..last {
        bytes.extend_from_slice(&word(index).to_le_bytes());
    }
    let skip = (range.start - first * 8) as usize;
    let length = range.end.saturating_sub(range.start) as usize;
    bytes.freeze().slice(skip..skip + length)
}

/// An object's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// With where each begins.
    pieces: Arc<Vec<(u64, Piece)>>,
    length: u64,
    checksum: u64,
}

#[derive(Clone, Debug)]
enum Piece {
    Bytes(Bytes),
    Pattern(Range<u64>),
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// A checksum of all bytes.
    pub(super) fn checksum(&self) -> u64 {
        self.checksum
    }

    /// The bytes of a range in pieces of no more than 1 MiB, and all of them within the content.
    pub(super) fn chunks(&self, range: Range<u64>) -> impl Iterator<Item = Bytes> + use<> {
        let content = self.clone();
        let mut at = range.start;
        std::iter::from_fn(move || {
            let chunk = content.chunk(at..range.end)?;
            at += chunk.len() as u64;
            Some(chunk)
        })
    }

    /// The first bytes of a range, unless it is empty or begins after the end.
    fn chunk(&self, range: Range<u64>) -> Option<Bytes> {
        let end = range.end.min(self.length);
        if range.start >= end {
            return None;
        }
        let index = self
            .pieces
            .partition_point(|(begins, _)| *begins <= range.start)
            .checked_sub(1)?;
        let (begins, piece) = &self.pieces[index];
        let from = range.start - begins;
        let to = (from + CHUNK_MAX).min(piece.len()).min(end - begins);
        Some(match piece {
            Piece::Bytes(bytes) => bytes.slice(from as usize..to as usize),
            Piece::Pattern(place) => pattern(place.start + from..place.start + to),
        })
    }

    /// Content of that many bytes of the pattern, from its start. Its checksum stands for it, but
    /// isn't that of its bytes, none of which is made.
    pub(super) fn of_pattern(length: u64) -> Self {
        Self {
            pieces: Arc::new(vec![(0, Piece::Pattern(0..length))]),
            length,
            checksum: word(length),
        }
    }

    /// These contents, one after the other.
    pub(super) fn concat(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut pieces = Vec::new();
        let mut length = 0;
        let mut checksum = Digest::new(ALGORITHM).finalize();
        for part in parts {
            let shifted = part.pieces.iter().cloned();
            pieces.extend(shifted.map(|(begins, piece)| (length + begins, piece)));
            checksum = crc_fast::checksum_combine(ALGORITHM, checksum, part.checksum, part.length);
            length += part.length;
        }
        Self {
            pieces: Arc::new(pieces),
            length,
            checksum,
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        let mut assembly = Assembly::default();
        assembly.push(&bytes);
        assembly.finish()
    }
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern(place) => place.end - place.start,
        }
    }
}

/// Content that is still coming.
pub(super) struct Assembly {
    pieces: Vec<(u64, Piece)>,
    /// Bytes that are no pattern, not yet a piece.
    pending: BytesMut,
    length: u64,
    digest: Digest,
}

impl Default for Assembly {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            pending: BytesMut::new(),
            length: 0,
            digest: Digest::new(ALGORITHM),
        }
    }
}

impl Assembly {
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    pub(super) fn push(&mut self, bytes: &Bytes) {
        self.digest.update(bytes);
        let length = bytes.len() as u64;
        let expected = match self.pieces.last() {
            Some((_, Piece::Pattern(place))) if self.pending.is_empty() => Some(place.end),
            _ => None,
        };
        if let Some(start) = expected.filter(|start| is_pattern(*start, bytes)) {
            if let Some((_, Piece::Pattern(place))) = self.pieces.last_mut() {
                place.end = start + length;
            }
        } else if let Some(start) = place_in_pattern(bytes) {
            self.settle();
            let piece = Piece::Pattern(start..start + length);
            self.pieces.push((self.length, piece));
        } else {
            self.pending.extend_from_slice(bytes);
        }
        self.length += length;
    }

    pub(super) fn finish(mut self) -> Content {
        self.settle();
        Content {
            pieces: Arc::new(self.pieces),
            length: self.length,
            checksum: self.digest.finalize(),
        }
    }

    /// Makes a piece of the bytes that are none yet.
    fn settle(&mut self) {
        if !self.pending.is_empty() {
            let bytes = self.pending.split().freeze();
            let begins = self.length - bytes.len() as u64;
            self.pieces.push((begins, Piece::Bytes(bytes)));
        }
    }
}

/// Where in the pattern these bytes are, if they are long enough to say so.
fn place_in_pattern(bytes: &[u8]) -> Option<u64> {
    // Somewhere in the first 15 bytes lies a whole word.
    bytes
        .windows(8)
        .take(8)
        .enumerate()
        .find_map(|(skip, window)| {
            let word = u64::from_le_bytes(window.try_into().expect("windows of 8 bytes"));
            let index = word.wrapping_mul(INVERSE).wrapping_sub(1);
            let start = index.checked_mul(8)?.checked_sub(skip as u64)?;
            (bytes.len() >= 16 && start < PATTERN_MAX && is_pattern(start, bytes)).then_some(start)
        })
}

fn is_pattern(start: u64, bytes: &[u8]) -> bool {
    let skip = (start.wrapping_neg() % 8).min(bytes.len() as u64) as usize;
    let (head, rest) = bytes.split_at(skip);
    let words = rest.chunks_exact(8);
    let tail = words.remainder();
    let first = (start + skip as u64) / 8;
    let end = start + bytes.len() as u64;
    pattern(start..start + skip as u64) == head
        && pattern(end - tail.len() as u64..end) == tail
        && words
            .zip(first..)
            .all(|(bytes, index)| bytes == word(index).to_le_bytes())
}

/// A word of the pattern.
fn word(index: u64) -> u64 {
    index.wrapping_add(1).wrapping_mul(FACTOR)
}

/// The number by which `odd` is 1, in 64 bits: each step of Newton's doubles the bits that are
/// right, of which there are 3 at first.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut right = 3;
    while right < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        right *= 2;
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stretch_of_the_pattern_is_recognized_where_it_is() {
        for start in (0..20).chain((5 << 30)..(5 << 30) + 9) {
            for length in [16, 17, 23, 24, 100] {
                let bytes = pattern(start..start + length);

                assert_eq!(place_in_pattern(&bytes), Some(start), "{length} bytes");
            }
        }
    }

    #[test]
    fn a_byte_that_differs_makes_it_no_pattern() {
        for place in 0..50 {
            let mut bytes = pattern(3..53).to_vec();
            bytes[place] ^= 1;

            assert_eq!(place_in_pattern(&bytes), None, "byte {place}");
        }
    }

    #[test]
    fn content_is_read_as_it_was_pushed() {
        let pieces = [
            Bytes::from("a header"),
            pattern(100..5000),
            pattern(5000..5003),
            Bytes::from("x"),
            pattern(0..64),
        ];
        let whole = Bytes::from(pieces.concat());
        let mut assembly = Assembly::default();
        for piece in &pieces {
            assembly.push(piece);
        }

        let content = assembly.finish();

        assert_eq!(content.len(), whole.len() as u64);
        for range in [0..whole.len(), 3..4990, 4907..4912, 5000..9999] {
            let expected = whole.slice(range.start.min(whole.len())..range.end.min(whole.len()));
            let chunks: Vec<_> = content
                .chunks(range.start as u64..range.end as u64)
                .collect();
            assert_eq!(chunks.concat(), expected, "{range:?}");
        }
        let halves = [whole.slice(..77), whole.slice(77..)].map(Content::from);
        assert_eq!(Content::concat(halves).checksum(), content.checksum());
    }

    #[test]
    fn content_beyond_4_gib_is_made_as_it_is_read() {
        let part = |range| Content {
            pieces: Arc::new(vec![(0, Piece::Pattern(range))]),
            length: 3 << 30,
            checksum: 0,
        };
        let content = Content::concat([part(0..3 << 30), part(3 << 30..6 << 30)]);

        let chunks: Vec<_> = content.chunks((5 << 30) - 7..(5 << 30) + 9).collect();

        assert_eq!(chunks.concat(), pattern((5 << 30) - 7..(5 << 30) + 9));
    }
}
