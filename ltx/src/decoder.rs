//! Reads a file page by page, from whatever pieces its bytes arrive in.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

use crate::checksum::{Checksum, Crc, DatabaseChecksum};
use crate::error::{Error, IndexFault, Part};
use crate::header::{HEADER_SIZE, Header, TRAILER_SIZE, Trailer};
use crate::index::{INDEX_SIZE_SIZE, IndexEvent, IndexWalk};
use crate::lz4::{self, FrameEnd, FrameWalk};
use crate::page::{PageOrder, Pgno};
use crate::record::{self, BLOCK_SIZE_SIZE, PAGE_HEADER_SIZE, PageHeader};

/// Decodes one file from pieces of any size, and does no I/O itself.
///
/// Give it bytes with [`decode`](Decoder::decode) until the file ends, then call
/// [`finish`](Decoder::finish). It hands out the header, then page after page.
///
/// **Nothing is proven before `finish`.** The page index and the file's checksum come last, so
/// pages that were handed out may still turn out to be damaged.
///
/// Besides itself a decoder holds at most one compressed page, and that only where the page is
/// spread over several pieces. The page index is not kept: two keyed hashes say whether it lists
/// the pages that were read.
///
/// # What is damage
///
/// The file's checksum covers every byte but compressed ones, of which it covers what they
/// decompress to: other bytes that decompress to the same page are no damage. In a page that is
/// an LZ4 frame these include the frame's own header; its checksums are checked, which leaves one
/// change in 256 of that header unnoticed, and none that changes the page.
///
/// ```
/// # use ltx::*;
/// # fn main() -> Result<(), Error> {
/// # let header = Header::new(PageSize::MIN, 1, TxidRange::single(Txid::FIRST), Timestamp::EPOCH);
/// # let mut file = Vec::new();
/// # let mut encoder = Encoder::new(header, Compression::Blocks, &mut file);
/// # encoder.page(Pgno::FIRST, &[7; 512], &mut file)?;
/// # encoder.finish(None, &mut file)?;
/// let mut decoder = Decoder::new();
/// let mut page = vec![0; PageSize::MAX.bytes()];
/// for mut piece in file.chunks(100) {
///     loop {
///         match decoder.decode(&mut piece, &mut page)? {
///             Step::NeedInput => break,
///             Step::Header(header) => page.truncate(header.page_size().bytes()),
///             Step::Page(pgno) => assert_eq!((pgno, &page[..]), (Pgno::FIRST, &[7; 512][..])),
///         }
///     }
/// }
/// decoder.finish()?;
/// # Ok(())
/// # }
/// ```
pub struct Decoder {
    gather: Gather,
    /// The file after its header, which says how to read the rest.
    body: Option<Body>,
    failed: Option<Error>,
}

/// What a decoder has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All input is taken. Call again with more, or [`Decoder::finish`] if there is no more.
    NeedInput,
    /// The header was read.
    Header(Header),
    /// A page was read, and is in the caller's buffer.
    Page(Pgno),
}

impl Decoder {
    /// A decoder at the beginning of a file.
    pub fn new() -> Decoder {
        Decoder {
            gather: Gather::default(),
            body: None,
            failed: None,
        }
    }

    /// Takes bytes off the front of `input`, up to the next thing worth telling.
    ///
    /// A page is decompressed straight into the first bytes of `page`, which must have room for
    /// one as soon as the header was handed out; what it holds after any other answer is
    /// unspecified. After an error in the file every further call gives the same error.
    pub fn decode(&mut self, input: &mut &[u8], page: &mut [u8]) -> Result<Step, Error> {
        self.decode_keeping(input, page, None)
    }

    /// Decodes, and keeps the block that a page was decompressed from in `block`, which is empty
    /// after a page that was no block.
    pub(crate) fn decode_keeping(
        &mut self,
        input: &mut &[u8],
        page: &mut [u8],
        block: Option<&mut Vec<u8>>,
    ) -> Result<Step, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let step = match &mut self.body {
            None => self.parse_header(input),
            Some(body) => {
                let page_size = body.header.page_size();
                let len = page.len();
                let Some(page) = page.get_mut(..page_size.bytes()) else {
                    return Err(Error::Buffer { len, page_size });
                };
                body.decode(&mut self.gather, input, page, block)
            }
        };
        if let Err(error) = &step {
            self.failed = Some(error.clone());
        }
        step
    }

    /// The file's header, once it was read.
    pub fn header(&self) -> Option<&Header> {
        self.body.as_ref().map(|body| &body.header)
    }

    /// Says that the input has ended: the file is whole and everything in it agrees, or this is
    /// the error that tells what it lacks.
    pub fn finish(&self) -> Result<Trailer, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let gathered = self.gather.0.len() as u64;
        let Some(body) = &self.body else {
            return Err(Error::Truncated {
                len: gathered,
                part: Part::Header,
            });
        };
        let part = match body.state {
            State::Done(trailer) => return Ok(trailer),
            State::PageHeader => Part::Pages,
            State::BlockSize { pgno } | State::Block { pgno, .. } | State::Frame { pgno, .. } => {
                Part::Page(pgno)
            }
            State::Index | State::IndexSize => Part::Index,
            State::Trailer => Part::Trailer,
        };
        Err(Error::Truncated {
            len: body.offset + gathered,
            part,
        })
    }

    fn parse_header(&mut self, input: &mut &[u8]) -> Result<Step, Error> {
        let Some(bytes) = self.gather.take::<HEADER_SIZE>(input) else {
            return Ok(Step::NeedInput);
        };
        let header = Header::parse(&bytes)?;
        self.body = Some(Body::new(header, &bytes));
        Ok(Step::Header(header))
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.as_ref();
        f.debug_struct("Decoder")
            .field("offset", &body.map_or(0, |body| body.offset))
            .field("next", &body.map(|body| &body.state))
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// A file from the end of its header on.
struct Body {
    state: State,
    /// Where in the file the next byte to be taken is.
    offset: u64,
    /// Where the record that is being read begins, or after the pages the index.
    start: u64,
    header: Header,
    crc: Crc,
    order: PageOrder,
    /// The checksum of the pages so far, where it is what the file must end with.
    database: Option<DatabaseChecksum>,
    index: IndexWalk,
    /// Hashes of the pages' records, and of what the index says of them. The key is random, so
    /// that no file can be made for which they agree though the records don't.
    records: DefaultHasher,
    indexed: DefaultHasher,
}

/// What comes next in the file.
#[derive(Clone, Debug)]
enum State {
    PageHeader,
    BlockSize {
        pgno: Pgno,
    },
    Block {
        pgno: Pgno,
        size: usize,
    },
    Frame {
        pgno: Pgno,
        walk: FrameWalk,
        needed: usize,
    },
    Index,
    IndexSize,
    Trailer,
    Done(Trailer),
}

impl Body {
    fn new(header: Header, bytes: &[u8]) -> Body {
        let mut crc = Crc::new();
        crc.update(bytes);
        let keys = RandomState::new();
        Body {
            state: State::PageHeader,
            offset: bytes.len() as u64,
            start: 0,
            crc,
            order: PageOrder::new(&header),
            database: (header.has_checksums() && header.is_snapshot())
                .then(DatabaseChecksum::default),
            index: IndexWalk::new(&header),
            records: keys.build_hasher(),
            indexed: keys.build_hasher(),
            header,
        }
    }

    /// `page` is exactly one page long.
    fn decode(
        &mut self,
        gather: &mut Gather,
        input: &mut &[u8],
        page: &mut [u8],
        keep: Option<&mut Vec<u8>>,
    ) -> Result<Step, Error> {
        loop {
            match &mut self.state {
                State::PageHeader => {
                    let Some(bytes) = gather.take::<PAGE_HEADER_SIZE>(input) else {
                        return Ok(Step::NeedInput);
                    };
                    self.start = self.offset;
                    self.offset += PAGE_HEADER_SIZE as u64;
                    self.crc.update(&bytes);
                    self.state = self.begin(bytes)?;
                }
                State::BlockSize { pgno } => {
                    let pgno = *pgno;
                    let Some(bytes) = gather.take::<BLOCK_SIZE_SIZE>(input) else {
                        return Ok(Step::NeedInput);
                    };
                    let page_size = self.header.page_size();
                    let size = record::block_size(bytes, page_size, pgno, self.offset)?;
                    self.offset += BLOCK_SIZE_SIZE as u64;
                    self.crc.update(&bytes);
                    self.state = State::Block { pgno, size };
                }
                State::Block { pgno, size } => {
                    let (pgno, size) = (*pgno, *size);
                    let Some(block) = gather.peek(input, size) else {
                        return Ok(Step::NeedInput);
                    };
                    lz4::decompress_block(block, page).map_err(|fault| Error::Compression {
                        pgno,
                        offset: self.offset,
                        fault,
                    })?;
                    if let Some(keep) = keep {
                        keep.clear();
                        keep.extend_from_slice(block);
                    }
                    gather.consume(input, size);
                    return Ok(self.page(pgno, page, size));
                }
                State::Frame { pgno, walk, needed } => {
                    let pgno = *pgno;
                    let Some(frame) = gather.peek(input, *needed) else {
                        return Ok(Step::NeedInput);
                    };
                    let refused = |fault| Error::Compression {
                        pgno,
                        offset: self.offset,
                        fault,
                    };
                    match walk.walk(frame).map_err(refused)? {
                        FrameEnd::AtLeast(len) => *needed = len,
                        FrameEnd::At(len) if len > frame.len() => *needed = len,
                        FrameEnd::At(len) => {
                            let page_size = self.header.page_size();
                            lz4::decompress_frame(frame, page, page_size).map_err(refused)?;
                            if let Some(keep) = keep {
                                keep.clear();
                            }
                            gather.consume(input, len);
                            return Ok(self.page(pgno, page, len));
                        }
                    }
                }
                State::Index => {
                    if input.is_empty() {
                        return Ok(Step::NeedInput);
                    }
                    self.index(input)?;
                }
                State::IndexSize => {
                    let Some(bytes) = gather.take::<INDEX_SIZE_SIZE>(input) else {
                        return Ok(Step::NeedInput);
                    };
                    let said = u64::from_be_bytes(bytes);
                    let len = self.offset - self.start;
                    if said != len {
                        return Err(Error::Index {
                            offset: self.offset,
                            fault: IndexFault::Size { said, len },
                        });
                    }
                    self.offset += INDEX_SIZE_SIZE as u64;
                    self.crc.update(&bytes);
                    self.state = State::Trailer;
                }
                State::Trailer => {
                    let Some(bytes) = gather.take::<TRAILER_SIZE>(input) else {
                        return Ok(Step::NeedInput);
                    };
                    self.offset += TRAILER_SIZE as u64;
                    self.state = State::Done(self.trailer(bytes)?);
                }
                State::Done(_) if input.is_empty() => return Ok(Step::NeedInput),
                State::Done(_) => {
                    return Err(Error::TrailingBytes {
                        offset: self.offset,
                    });
                }
            }
        }
    }

    /// What a page's header begins: a page, or the page index.
    fn begin(&mut self, bytes: [u8; PAGE_HEADER_SIZE]) -> Result<State, Error> {
        match PageHeader::parse(bytes, self.start)? {
            PageHeader::Block(pgno) => {
                self.order.take(pgno, self.start)?;
                Ok(State::BlockSize { pgno })
            }
            PageHeader::Frame(pgno) => {
                self.order.take(pgno, self.start)?;
                Ok(State::Frame {
                    pgno,
                    walk: FrameWalk::new(self.header.page_size()),
                    needed: 1,
                })
            }
            PageHeader::End => {
                self.order.end(self.start)?;
                self.start = self.offset;
                Ok(State::Index)
            }
        }
    }

    /// Takes a page that was decompressed from `len` bytes.
    fn page(&mut self, pgno: Pgno, page: &[u8], len: usize) -> Step {
        self.crc.update(page);
        if let Some(database) = &mut self.database {
            database.add(Checksum::of_page(pgno, page));
        }
        self.offset += len as u64;
        (pgno.get(), self.offset - self.start).hash(&mut self.records);
        self.state = State::PageHeader;
        Step::Page(pgno)
    }

    /// Takes as much of the page index as there is in `input`.
    fn index(&mut self, input: &mut &[u8]) -> Result<(), Error> {
        let mut len = input.len();
        for (at, &byte) in input.iter().enumerate() {
            let refused = |fault| Error::Index {
                offset: self.offset + at as u64,
                fault,
            };
            match self.index.push(byte).map_err(refused)? {
                IndexEvent::Nothing => {}
                IndexEvent::Entry(entry) => {
                    (entry.pgno.get(), entry.len).hash(&mut self.indexed);
                }
                IndexEvent::End { records_end } => {
                    let pages_end = self.start - PAGE_HEADER_SIZE as u64;
                    if records_end != pages_end {
                        return Err(refused(IndexFault::End {
                            records_end,
                            pages_end,
                        }));
                    }
                    if self.records.finish() != self.indexed.finish() {
                        return Err(refused(IndexFault::Disagrees));
                    }
                    len = at + 1;
                    self.state = State::IndexSize;
                    break;
                }
            }
        }
        let (taken, rest) = input.split_at(len);
        self.crc.update(taken);
        self.offset += len as u64;
        *input = rest;
        Ok(())
    }

    fn trailer(&mut self, bytes: [u8; TRAILER_SIZE]) -> Result<Trailer, Error> {
        let (&post_apply, &file) = bytes
            .split_first_chunk()
            .zip(bytes.last_chunk())
            .map(|((post_apply, _), file)| (post_apply, file))
            .expect("a trailer is two checksums");
        self.crc.update(&post_apply);
        let computed = self.crc.checksum();

        let file = u64::from_be_bytes(file);
        if file != computed.get() {
            return Err(Error::FileChecksum {
                stored: file,
                computed,
            });
        }
        let post_apply = self
            .header
            .check_post_apply(u64::from_be_bytes(post_apply))?;
        if let (Some(stored), Some(database)) = (post_apply, self.database) {
            database.check(stored)?;
        }
        Ok(Trailer {
            post_apply,
            file: computed,
        })
    }
}

/// Makes bytes contiguous that arrive in pieces, and copies only those that need it.
#[derive(Debug, Default)]
struct Gather(Vec<u8>);

impl Gather {
    /// The next `len` bytes, or `None` after taking all of `input` towards them.
    fn peek<'b, 'i: 'b>(&'b mut self, input: &mut &'i [u8], len: usize) -> Option<&'b [u8]> {
        if self.0.is_empty()
            && let Some(bytes) = input.get(..len)
        {
            return Some(bytes);
        }
        let missing = len.saturating_sub(self.0.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.0.extend_from_slice(taken);
        *input = rest;
        self.0.get(..len)
    }

    /// Drops the `len` bytes that were peeked at last.
    fn consume(&mut self, input: &mut &[u8], len: usize) {
        if self.0.is_empty() {
            *input = input.get(len..).unwrap_or_default();
        } else {
            self.0.clear();
        }
    }

    /// The next `N` bytes, or `None` after taking all of `input` towards them.
    fn take<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let bytes = *self.peek(input, N)?.first_chunk()?;
        self.consume(input, N);
        Some(bytes)
    }
}
