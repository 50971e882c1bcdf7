//! Parts of a file.

use std::fmt;
use std::ops::{Range, RangeFrom, RangeFull, RangeTo};

use crate::{Error, ErrorKind, Result};

/// A part of a file: an offset in bytes, and an end unless it is "the rest".
///
/// Made from Rust's ranges: `..`, `100..`, `..50`, `100..150`. A range whose end is not beyond
/// its start has length zero, as in Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: u64,
    end: Option<u64>,
}

impl ByteRange {
    /// The whole file.
    pub const ALL: ByteRange = ByteRange {
        start: 0,
        end: None,
    };

    /// The offset of the first byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The offset behind the last byte, unless the range goes on to the end of the file. Never
    /// less than [`start`](ByteRange::start).
    pub const fn end(self) -> Option<u64> {
        self.end
    }

    /// The part of this range that a file of `size` bytes has, possibly empty (K3).
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) where the range starts beyond the end of the file.
    pub fn resolve(self, size: u64) -> Result<Range<u64>> {
        if self.start > size {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("range {self} starts beyond the end of the file, which has {size} bytes"),
            ));
        }
        Ok(self.start..self.end.map_or(size, |end| end.min(size)))
    }
}

impl From<RangeFull> for ByteRange {
    fn from(_: RangeFull) -> ByteRange {
        ByteRange::ALL
    }
}

impl From<RangeFrom<u64>> for ByteRange {
    fn from(range: RangeFrom<u64>) -> ByteRange {
        ByteRange {
            start: range.start,
            end: None,
        }
    }
}

impl From<RangeTo<u64>> for ByteRange {
    fn from(range: RangeTo<u64>) -> ByteRange {
        ByteRange {
            start: 0,
            end: Some(range.end),
        }
    }
}

impl From<Range<u64>> for ByteRange {
    fn from(range: Range<u64>) -> ByteRange {
        ByteRange {
            start: range.start,
            end: Some(range.end.max(range.start)),
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(end) => write!(f, "{}..{end}", self.start),
            None => write!(f, "{}..", self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_is_cut_at_the_end() {
        assert_eq!(ByteRange::from(..).resolve(10).unwrap(), 0..10);
        assert_eq!(ByteRange::from(4..).resolve(10).unwrap(), 4..10);
        assert_eq!(ByteRange::from(..4).resolve(10).unwrap(), 0..4);
        assert_eq!(ByteRange::from(4..u64::MAX).resolve(10).unwrap(), 4..10);
        assert_eq!(ByteRange::from(10..).resolve(10).unwrap(), 10..10);
        assert_eq!(ByteRange::from(10..12).resolve(10).unwrap(), 10..10);
        assert_eq!(ByteRange::from(4..4).resolve(10).unwrap(), 4..4);
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = ByteRange::from(4..2);
        assert_eq!(backwards.resolve(10).unwrap(), 4..4);
    }

    #[test]
    fn a_start_beyond_the_end_is_invalid() {
        let error = ByteRange::from(11..).resolve(10).unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.to_string(),
            "range 11.. starts beyond the end of the file, which has 10 bytes"
        );
    }

    proptest! {
        #[test]
        fn a_resolved_range_lies_within_the_file(start: u64, end: u64, size: u64) {
            match ByteRange::from(start..end).resolve(size) {
                Ok(range) => {
                    prop_assert!(range.start <= range.end && range.end <= size);
                    prop_assert_eq!(range.start, start);
                }
                Err(_) => prop_assert!(start > size),
            }
        }
    }
}
