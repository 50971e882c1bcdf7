//! The page index: where each page's record is, for reading one page without the others.

use std::ops::Range;

use crate::error::{Error, IndexFault, Part};
use crate::header::{HEADER_SIZE, Header, TRAILER_SIZE};
use crate::page::{PageOrder, PageSize, Pgno};
use crate::record::{self, PAGE_HEADER_SIZE, RECORD_MIN, record_max};

/// The size of the index's size.
pub(crate) const INDEX_SIZE_SIZE: usize = 8;

/// What follows the index: its size, and the trailer.
const TAIL_SIZE: u64 = (INDEX_SIZE_SIZE + TRAILER_SIZE) as u64;
/// The shortest file: a header, six zero bytes, an index of its terminator, and the tail.
const FILE_MIN: u64 = (HEADER_SIZE + PAGE_HEADER_SIZE) as u64 + 1 + TAIL_SIZE;
/// What an entry takes at most: five bytes of page number, ten of offset, three of length.
const ENTRY_MAX: u64 = 18;
/// How much of a file's end is asked for at once, in the hope that it holds the whole index.
const TAIL_GUESS: u64 = 16 * 1024;

/// Where each page of one file is, for reading a page without those before it.
///
/// [`IndexSearch`] gets one. It takes 12 bytes of memory a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    header: Header,
    pgnos: Vec<Pgno>,
    /// Where each record begins, and after them where the last one ends.
    starts: Vec<u64>,
}

impl Index {
    /// The file's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many pages the file holds.
    pub fn len(&self) -> usize {
        self.pgnos.len()
    }

    /// Whether the file holds no page.
    pub fn is_empty(&self) -> bool {
        self.pgnos.is_empty()
    }

    /// The bytes of the file that are the record of page `pgno`, if the file holds that page.
    pub fn record(&self, pgno: Pgno) -> Option<Range<u64>> {
        let at = self.pgnos.binary_search(&pgno).ok()?;
        match self.starts.get(at..=at + 1) {
            Some(&[start, end]) => Some(start..end),
            _ => None,
        }
    }

    /// Each page of the file with its record, in ascending order.
    pub fn records(&self) -> impl Iterator<Item = (Pgno, Range<u64>)> {
        let ranges = self.starts.windows(2).map(|pair| match *pair {
            [start, end] => start..end,
            _ => unreachable!("windows of two"),
        });
        self.pgnos.iter().copied().zip(ranges)
    }

    /// Decodes `record`, the bytes at [`record`](Index::record), into the first bytes of `page`.
    ///
    /// That the bytes are one page with that number is checked. That they are the right page is
    /// not: the checksum that says so is the whole file's.
    pub fn decode(&self, pgno: Pgno, record: &[u8], page: &mut [u8]) -> Result<(), Error> {
        let page_size = self.header.page_size();
        let len = page.len();
        let page = page
            .get_mut(..page_size.bytes())
            .ok_or(Error::Buffer { len, page_size })?;
        let start = self.record(pgno).map_or(0, |record| record.start);
        record::decode(&self.header, pgno, record, start, page)
    }

    /// Parses an index that begins at byte `start` of the file.
    fn parse(header: Header, bytes: &[u8], start: u64) -> Result<Index, Error> {
        let pages_end = start - PAGE_HEADER_SIZE as u64;
        let mut walk = IndexWalk::new(&header);
        let mut order = PageOrder::new(&header);
        let mut index = Index {
            header,
            pgnos: Vec::new(),
            starts: vec![HEADER_SIZE as u64],
        };
        for (offset, &byte) in (start..).zip(bytes) {
            let refused = |fault| Error::Index { offset, fault };
            match walk.push(byte).map_err(refused)? {
                IndexEvent::Nothing => {}
                IndexEvent::Entry(entry) => {
                    order.take(entry.pgno, entry.offset)?;
                    index.pgnos.push(entry.pgno);
                    index.starts.push(entry.offset + entry.len);
                }
                IndexEvent::End { records_end } => {
                    if records_end != pages_end {
                        return Err(refused(IndexFault::End {
                            records_end,
                            pages_end,
                        }));
                    }
                    order.end(pages_end)?;
                    let (said, len) = (bytes.len() as u64, offset + 1 - start);
                    if said != len {
                        return Err(refused(IndexFault::Size { said, len }));
                    }
                    return Ok(index);
                }
            }
        }
        Err(Error::Index {
            offset: start + bytes.len() as u64,
            fault: IndexFault::Unended,
        })
    }
}

/// Finds the page index of a file by reading little of it, and does no I/O itself: it says which
/// bytes it needs, and is given them.
///
/// ```
/// # use ltx::*;
/// # fn read(file: &[u8], range: std::ops::Range<u64>) -> &[u8] {
/// #     &file[range.start as usize..range.end as usize]
/// # }
/// # fn main() -> Result<(), Error> {
/// # let header = Header::new(PageSize::MIN, 2, TxidRange::single(Txid::FIRST), Timestamp::EPOCH);
/// # let mut file = Vec::new();
/// # let mut encoder = Encoder::new(header, Compression::Blocks, &mut file);
/// # let second = Pgno::new(2).unwrap();
/// # encoder.page(Pgno::FIRST, &[1; 512], &mut file)?;
/// # encoder.page(second, &[2; 512], &mut file)?;
/// # encoder.finish(None, &mut file)?;
/// let mut search = IndexSearch::new(file.len() as u64)?;
/// while let Some(range) = search.wants() {
///     search.supply(read(&file, range))?;
/// }
/// let index = search.found().expect("it wants no more");
///
/// let record = index.record(second).expect("the file holds this page");
/// let mut page = [0; 512];
/// index.decode(second, read(&file, record), &mut page)?;
/// assert_eq!(page, [2; 512]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct IndexSearch {
    /// The length of the file.
    len: u64,
    /// What is wanted next, if anything is.
    wants: Option<Range<u64>>,
    header: Option<Header>,
    /// The bytes of the index, with the six zero bytes before it, once the tail told where it is.
    span: Option<Range<u64>>,
    index: Option<Index>,
}

impl IndexSearch {
    /// A search in a file of `len` bytes.
    pub fn new(len: u64) -> Result<IndexSearch, Error> {
        if len < FILE_MIN {
            return Err(Error::Truncated {
                len,
                part: if len < HEADER_SIZE as u64 {
                    Part::Header
                } else {
                    Part::Trailer
                },
            });
        }
        Ok(IndexSearch {
            len,
            wants: Some(0..HEADER_SIZE as u64),
            header: None,
            span: None,
            index: None,
        })
    }

    /// The bytes of the file that are needed next, or `None` once the index was found.
    ///
    /// It asks two or three times: for the header, for up to 16 KiB at the end, and for the index
    /// if it is longer than that.
    pub fn wants(&self) -> Option<Range<u64>> {
        self.wants.clone()
    }

    /// Takes the bytes that were [wanted](IndexSearch::wants), all of them and no more.
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(wanted) = self.wants() else {
            return Ok(());
        };
        if bytes.len() as u64 != wanted.end - wanted.start {
            return Err(Error::Truncated {
                len: wanted.start.saturating_add(bytes.len() as u64),
                part: match self.header {
                    None => Part::Header,
                    Some(_) => Part::Index,
                },
            });
        }
        let Some(header) = self.header else {
            self.header = Some(Header::parse(bytes)?);
            let tail = self.len.saturating_sub(TAIL_GUESS).max(HEADER_SIZE as u64);
            self.wants = Some(tail..self.len);
            return Ok(());
        };
        let span = match &self.span {
            Some(span) => span.clone(),
            None => self.locate(&header, bytes)?,
        };
        let within = |at: u64| usize::try_from(at.checked_sub(wanted.start)?).ok();
        let found = within(span.start)
            .zip(within(span.end))
            .and_then(|(start, end)| bytes.get(start..end));
        match found {
            Some(found) => {
                self.index = Some(parse_span(header, found, span.start)?);
                self.wants = None;
            }
            None => {
                self.span = Some(span.clone());
                self.wants = Some(span);
            }
        }
        Ok(())
    }

    /// The index, once nothing more is wanted.
    pub fn found(self) -> Option<Index> {
        self.index
    }

    /// Where the end of the file, which is in `bytes`, says that the index is.
    fn locate(&self, header: &Header, bytes: &[u8]) -> Result<Range<u64>, Error> {
        let cut = Error::Truncated {
            len: self.len,
            part: Part::Trailer,
        };
        let (rest, trailer) = bytes
            .split_last_chunk::<TRAILER_SIZE>()
            .ok_or(cut.clone())?;
        let (_, size) = rest.split_last_chunk().ok_or(cut.clone())?;
        let (post_apply, _) = trailer.split_first_chunk().ok_or(cut)?;
        header.check_post_apply(u64::from_be_bytes(*post_apply))?;

        let size = u64::from_be_bytes(*size);
        let end = self.len - TAIL_SIZE;
        let start = end
            .checked_sub(size)
            .and_then(|start| start.checked_sub(PAGE_HEADER_SIZE as u64))
            .filter(|&start| start >= HEADER_SIZE as u64)
            .filter(|_| size <= 1 + ENTRY_MAX * u64::from(header.commit()));
        match start {
            Some(start) => Ok(start..end),
            None => Err(Error::Index {
                offset: end,
                fault: IndexFault::TooLong(size),
            }),
        }
    }
}

/// Parses the six zero bytes that end the pages, which are at byte `start`, and the index.
fn parse_span(header: Header, bytes: &[u8], start: u64) -> Result<Index, Error> {
    match bytes.split_first_chunk::<PAGE_HEADER_SIZE>() {
        Some((&[0, 0, 0, 0, 0, 0], index)) => {
            Index::parse(header, index, start + PAGE_HEADER_SIZE as u64)
        }
        _ => Err(Error::Index {
            offset: start,
            fault: IndexFault::NoPagesEnd,
        }),
    }
}

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
    page_size: PageSize,
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
            page_size: header.page_size(),
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
                    .filter(|_| RECORD_MIN <= number && number <= record_max(self.page_size))
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
