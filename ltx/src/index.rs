//! The page index: where each page's record is, for reading one page without the others.

use crate::error::IndexFault;
use crate::header::{HEADER_SIZE, Header};
use crate::page::Pgno;

/// The size of the index's size.
pub(crate) const INDEX_SIZE_SIZE: usize = 8;

/// One page of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pgno: Pgno,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// What one more byte of an index completes.
pub(crate) enum IndexEvent {
    Nothing,
    Entry(Entry),
    /// The index has ended, and with it the list of records.
    End {
        records_end: u64,
    },
}

/// Reads an index byte by byte, and checks what can be checked without the pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexWalk {
    commit: u32,
    /// The last page, or 0.
    last: u32,
    /// Where the last page's record ends.
    end: u64,
    number: Varint,
    field: Field,
}

/// The number that comes next.
#[derive(Clone, Copy, Debug)]
enum Field {
    Pgno,
    Offset { pgno: Pgno },
    Len { pgno: Pgno },
}

impl IndexWalk {
    pub(crate) fn new(header: &Header) -> IndexWalk {
        IndexWalk {
            commit: header.commit(),
            last: 0,
            end: HEADER_SIZE as u64,
            number: Varint::default(),
            field: Field::Pgno,
        }
    }

    /// Takes the next byte of the index.
    pub(crate) fn push(&mut self, byte: u8) -> Result<IndexEvent, IndexFault> {
        let Some(number) = self.number.push(byte)? else {
            return Ok(IndexEvent::Nothing);
        };
        match self.field {
            Field::Pgno if number == 0 => Ok(IndexEvent::End {
                records_end: self.end,
            }),
            Field::Pgno => {
                let pgno = u32::try_from(number)
                    .ok()
                    .filter(|&pgno| self.last < pgno && pgno <= self.commit)
                    .and_then(Pgno::new)
                    .ok_or(IndexFault::Page(number))?;
                self.last = pgno.get();
                self.field = Field::Offset { pgno };
                Ok(IndexEvent::Nothing)
            }
            Field::Offset { pgno } => {
                if number != self.end {
                    return Err(IndexFault::Offset {
                        pgno,
                        offset: number,
                        end: self.end,
                    });
                }
                self.field = Field::Len { pgno };
                Ok(IndexEvent::Nothing)
            }
            Field::Len { pgno } => {
                let offset = self.end;
                self.end = offset
                    .checked_add(number)
                    .filter(|_| number > 0)
                    .ok_or(IndexFault::Length { pgno, len: number })?;
                self.field = Field::Pgno;
                Ok(IndexEvent::Entry(Entry {
                    pgno,
                    offset,
                    len: number,
                }))
            }
        }
    }
}

/// Appends `number` in the form that Go's `binary.PutUvarint` gives it.
pub(crate) fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number that is being read, seven bits a byte, the lowest first.
#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    bits: u32,
}

impl Varint {
    /// The number, if `byte` is its last.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, IndexFault> {
        let part = u64::from(byte & 0x7f);
        let fits = self.bits < 63 || (self.bits == 63 && part <= 1);
        // A last byte of zero adds nothing: the number could be shorter.
        let shortest = byte != 0 || self.bits == 0;
        if !fits || !shortest {
            return Err(IndexFault::Number);
        }
        self.value |= part << self.bits;
        if byte & 0x80 != 0 {
            self.bits += 7;
            return Ok(None);
        }
        Ok(Some(std::mem::take(self).value))
    }
}
