//! Verifies a WAL frame after frame.

use ltx::Pgno;

use super::checksum::WalChecksum;
use super::header::{HEADER_SIZE, WalHeader};

/// The length of a frame's header in bytes. The page follows it.
pub const FRAME_HEADER_SIZE: usize = 24;

/// What of a frame's header its checksum covers.
const SUMMED: usize = 8;

/// A WAL up to one of its frames, all of which are verified.
///
/// It is a place to go on from: keep a copy, and the frames that are appended later are verified
/// without reading those before them again. It takes a few bytes, however many frames there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    header: WalHeader,
    frames: u32,
    checksum: WalChecksum,
}

impl Chain {
    /// The beginning of the WAL with `header`, before its first frame.
    pub fn new(header: WalHeader) -> Chain {
        Chain {
            header,
            frames: 0,
            checksum: header.checksum(),
        }
    }

    /// The place in the WAL of `header` after its frame number `frames`, where the checksum of all
    /// of them is `checksum`.
    pub(crate) fn at(header: WalHeader, frames: u32, checksum: WalChecksum) -> Chain {
        Chain {
            header,
            frames,
            checksum,
        }
    }

    /// The WAL's header.
    pub const fn header(&self) -> &WalHeader {
        &self.header
    }

    /// How many frames there are up to here.
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// The checksum up to here, which the last frame ends with.
    pub const fn checksum(&self) -> WalChecksum {
        self.checksum
    }

    /// The byte of the WAL at which the next frame begins.
    pub const fn offset(&self) -> u64 {
        HEADER_SIZE as u64 + self.frames as u64 * self.header.frame_size() as u64
    }

    /// Goes on by the frame that `bytes` begin with, or stays where it is where they begin with
    /// none.
    ///
    /// # Errors
    ///
    /// A [`Break`], which is where SQLite finds the end of the log too.
    pub fn link(&mut self, bytes: &[u8]) -> Result<Frame, Break> {
        let Some((bytes, _)) = bytes.split_at_checked(self.header.frame_size()) else {
            return Err(Break::Short);
        };
        let (head, page) = bytes.split_at(FRAME_HEADER_SIZE);
        let [pgno, commit, salt_1, salt_2, ..] = head.as_chunks::<4>().0 else {
            unreachable!("a frame's header has six words");
        };
        let [pgno, commit, salt_1, salt_2] =
            [*pgno, *commit, *salt_1, *salt_2].map(u32::from_be_bytes);
        if [salt_1, salt_2] != self.header.salts() {
            return Err(Break::Salts);
        }
        let Some(pgno) = Pgno::new(pgno) else {
            return Err(Break::Pgno);
        };
        let (summed, rest) = head.split_at(SUMMED);
        let order = self.header.order();
        let checksum = self.checksum.and(summed, order).and(page, order);
        if !rest.ends_with(&checksum.to_bytes()) {
            return Err(Break::Checksum);
        }
        let frames = self.frames.checked_add(1).ok_or(Break::Number)?;
        *self = Chain {
            header: self.header,
            frames,
            checksum,
        };
        Ok(Frame { pgno, commit })
    }

    /// The bytes of the frame that would go on from here with `page`, to make a WAL of.
    pub fn encode(&self, frame: Frame, page: &[u8]) -> Vec<u8> {
        let order = self.header.order();
        let [salt_1, salt_2] = self.header.salts();
        let mut bytes = Vec::with_capacity(FRAME_HEADER_SIZE + page.len());
        bytes.extend(frame.pgno.get().to_be_bytes());
        bytes.extend(frame.commit.to_be_bytes());
        let checksum = self.checksum.and(&bytes, order).and(page, order);
        bytes.extend(salt_1.to_be_bytes());
        bytes.extend(salt_2.to_be_bytes());
        bytes.extend(checksum.to_bytes());
        bytes.extend_from_slice(page);
        bytes
    }
}

/// A verified frame: which page it holds, and whether it ends a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The page's number. It may be beyond the end that the database then has.
    pub pgno: Pgno,
    /// How many pages the database has after the transaction that this frame ends; 0 where it
    /// ends none.
    pub commit: u32,
}

/// Why a WAL ends where it does.
///
/// None of these is a fault in itself: a WAL that is begun anew overwrites the one before, whose
/// remains follow it. What SQLite is about to append makes a frame of any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Break {
    /// The bytes end before the frame does.
    #[error("there is no whole frame")]
    Short,
    /// It is of another WAL, by its salts.
    #[error("the frame is of another log")]
    Salts,
    /// It holds page 0, which there is not.
    #[error("the frame holds page 0")]
    Pgno,
    /// It is not what followed the frames before it when it was written, or it was changed.
    #[error("the frame's checksum does not go on from those before it")]
    Checksum,
    /// There are more frames than SQLite can count.
    #[error("there are more frames than can be counted")]
    Number,
}
