//! Merges files that follow one another into one, as compaction does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use bytes::{Buf, Bytes};

use crate::decoder::{Decoder, Step};
use crate::encoder::{Compression, Encoder};
use crate::error::Error;
use crate::header::{Header, Trailer};
use crate::page::Pgno;
use crate::txid::TxidRange;

/// Merges files of one database into one file with the transactions of all, and does no I/O
/// itself: it says whose bytes it needs, and appends what it has to the caller's buffer.
///
/// The inputs come oldest first and follow one another: each begins at the latest with the
/// transaction after the last one of the input before, and ends with a later one. The newest
/// input that has a page wins it, and pages beyond the end of the last input's database are
/// dropped. Every input is read to its end and checked like any other file. The result has
/// checksums if all inputs have.
///
/// Memory is that of one decoder, two pages and one piece of input for each input, and that of
/// one [`Encoder`]. A page that is a block already is not compressed again.
///
/// ```
/// # use ltx::*;
/// # fn main() -> Result<(), Error> {
/// # let files: Vec<Vec<u8>> = (1..=2)
/// #     .map(|txid| {
/// #         let txids = TxidRange::single(Txid::new(txid).unwrap());
/// #         let header = Header::new(PageSize::MIN, 1, txids, Timestamp::EPOCH);
/// #         let mut file = Vec::new();
/// #         let mut encoder = Encoder::new(header, Compression::Blocks, &mut file);
/// #         encoder.page(Pgno::FIRST, &[txid as u8; 512], &mut file)?;
/// #         encoder.finish(None, &mut file)?;
/// #         Ok(file)
/// #     })
/// #     .collect::<Result<_, Error>>()?;
/// let mut merge = Merge::new(files.len(), Compression::Blocks);
/// let mut pieces: Vec<_> = files.iter().map(|file| file.chunks(100)).collect();
/// let mut out = Vec::new();
/// loop {
///     match merge.step(&mut out)? {
///         MergeStep::NeedInput(input) => match pieces[input].next() {
///             Some(piece) => merge.supply(input, piece.to_vec().into()),
///             None => merge.end(input),
///         },
///         // A program would write `out` to a file now and then, and clear it.
///         MergeStep::Page(_) => {}
///         MergeStep::Done(_) => break,
///     }
/// }
/// assert_eq!(Header::parse(&out)?.txids().to_string(), "0000000000000001-0000000000000002.ltx");
/// # Ok(())
/// # }
/// ```
pub struct Merge {
    compression: Compression,
    inputs: Vec<Input>,
    /// The inputs to be read on before the next page is known; the last one first.
    waiting: Vec<usize>,
    /// The next page of each other input: the lowest page first, and of one page the newest.
    heads: BinaryHeap<(Reverse<Pgno>, usize)>,
    /// The file that is being written, once the headers of all inputs are known.
    output: Option<Encoder>,
    /// What the merge came to.
    ended: Option<Result<Trailer, Error>>,
}

/// What a merge has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeStep {
    /// The input, counted from 0, needs more bytes, or to be told that it has none.
    NeedInput(usize),
    /// A page was appended to the result.
    Page(Pgno),
    /// The result is complete.
    Done(Trailer),
}

impl Merge {
    /// A merge of `inputs` files, oldest first.
    pub fn new(inputs: usize, compression: Compression) -> Merge {
        Merge {
            compression,
            inputs: (0..inputs).map(|_| Input::default()).collect(),
            waiting: (0..inputs).rev().collect(),
            heads: BinaryHeap::with_capacity(inputs),
            output: None,
            ended: None,
        }
    }

    /// Adds `bytes` to what `input` has to be read.
    ///
    /// # Panics
    ///
    /// If there is no such input.
    pub fn supply(&mut self, input: usize, bytes: Bytes) {
        let unread = &mut self.inputs[input].unread;
        *unread = if unread.is_empty() {
            bytes
        } else {
            [&unread[..], &bytes[..]].concat().into()
        };
    }

    /// Says that `input` has no more bytes.
    ///
    /// # Panics
    ///
    /// If there is no such input.
    pub fn end(&mut self, input: usize) {
        self.inputs[input].ended = true;
    }

    /// Goes on to the next thing worth telling. What belongs to the result is appended to `out`.
    /// After an error every further call gives the same error.
    pub fn step(&mut self, out: &mut Vec<u8>) -> Result<MergeStep, Error> {
        if let Some(ended) = &self.ended {
            return ended.clone().map(MergeStep::Done);
        }
        let step = match self.output.take() {
            None => self.begin(out),
            Some(output) => self.next(output, out),
        };
        match &step {
            Ok(MergeStep::Done(trailer)) => self.ended = Some(Ok(*trailer)),
            Err(error) => self.ended = Some(Err(error.clone())),
            Ok(MergeStep::NeedInput(_) | MergeStep::Page(_)) => {}
        }
        step
    }

    /// Reads the headers of all inputs, of which the result's is made.
    fn begin(&mut self, out: &mut Vec<u8>) -> Result<MergeStep, Error> {
        while let Some(&input) = self.waiting.last() {
            if self.read(input)?.is_none() {
                return Ok(MergeStep::NeedInput(input));
            }
            self.waiting.pop();
        }
        let headers: Vec<Header> = self.inputs.iter().filter_map(Input::header).collect();
        let output = Encoder::new(merged(&headers)?, self.compression, out);
        self.waiting = (0..self.inputs.len()).rev().collect();
        self.next(output, out)
    }

    /// Finds the next page of the result.
    fn next(&mut self, mut output: Encoder, out: &mut Vec<u8>) -> Result<MergeStep, Error> {
        loop {
            while let Some(&input) = self.waiting.last() {
                match self.read(input)? {
                    Some(Read::Page(pgno)) => self.heads.push((Reverse(pgno), input)),
                    Some(Read::Header | Read::End) => {}
                    None => {
                        self.output = Some(output);
                        return Ok(MergeStep::NeedInput(input));
                    }
                }
                self.waiting.pop();
            }
            let Some((pgno, newest)) = self.heads.pop() else {
                self.check_chain()?;
                let last = self.inputs.last().and_then(|input| input.trailer);
                let post_apply = last
                    .and_then(|trailer| trailer.post_apply)
                    .filter(|_| output.header().has_checksums());
                return output.finish(post_apply, out).map(MergeStep::Done);
            };
            self.waiting.push(newest);
            while let Some(&(other, older)) = self.heads.peek()
                && other == pgno
            {
                self.heads.pop();
                self.waiting.push(older);
            }
            let Reverse(pgno) = pgno;
            if pgno.get() <= output.header().commit() {
                let input = &self.inputs[newest];
                output.page_from(pgno, &input.page, &input.block, out)?;
                self.output = Some(output);
                return Ok(MergeStep::Page(pgno));
            }
        }
    }

    fn read(&mut self, input: usize) -> Result<Option<Read>, Error> {
        self.inputs[input]
            .read()
            .map_err(|error| Error::MergeInput {
                input,
                error: Box::new(error),
            })
    }

    /// Whether each input that continues another one starts from the database that it left.
    fn check_chain(&self) -> Result<(), Error> {
        for (input, pair) in (1..).zip(self.inputs.windows(2)) {
            let [before, after] = pair else {
                unreachable!("windows of two");
            };
            let Some((old, new)) = before.header().zip(after.header()) else {
                continue;
            };
            let continues = old.txids().max().next() == Some(new.txids().min());
            let post_apply = before.trailer.and_then(|trailer| trailer.post_apply);
            match new.pre_apply().zip(post_apply) {
                Some((pre_apply, post_apply)) if continues && pre_apply != post_apply => {
                    return Err(Error::MergeChain {
                        input,
                        pre_apply,
                        post_apply,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge")
            .field("inputs", &self.inputs.len())
            .field("output", &self.output)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// One of the files to be merged, with the page that it has come to.
#[derive(Default)]
struct Input {
    decoder: Decoder,
    unread: Bytes,
    /// Whether nothing follows what is unread.
    ended: bool,
    page: Vec<u8>,
    /// The page as it was compressed, if that was a block.
    block: Vec<u8>,
    trailer: Option<Trailer>,
}

/// What was read of an input.
enum Read {
    Header,
    Page(Pgno),
    End,
}

impl Input {
    fn header(&self) -> Option<Header> {
        self.decoder.header().copied()
    }

    /// What comes next in the file, or `None` where that takes more bytes.
    fn read(&mut self) -> Result<Option<Read>, Error> {
        let mut unread = &self.unread[..];
        let step =
            self.decoder
                .decode_keeping(&mut unread, &mut self.page, Some(&mut self.block))?;
        let taken = self.unread.len() - unread.len();
        self.unread.advance(taken);
        match step {
            Step::Header(header) => {
                self.page.resize(header.page_size().bytes(), 0);
                Ok(Some(Read::Header))
            }
            Step::Page(pgno) => Ok(Some(Read::Page(pgno))),
            Step::NeedInput if !self.ended => Ok(None),
            Step::NeedInput => {
                self.trailer = Some(self.decoder.finish()?);
                Ok(Some(Read::End))
            }
        }
    }
}

/// The header of the file that files with `headers` merge into.
fn merged(headers: &[Header]) -> Result<Header, Error> {
    let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
        return Err(Error::NothingToMerge);
    };
    for (input, pair) in (1..).zip(headers.windows(2)) {
        let [before, after] = pair else {
            unreachable!("windows of two");
        };
        if after.page_size() != first.page_size() {
            return Err(Error::MergePageSize {
                input,
                found: after.page_size(),
                first: first.page_size(),
            });
        }
        let (before, after) = (before.txids(), after.txids());
        let continues = before.max().next().is_some_and(|next| after.min() <= next);
        if !continues || after.max() <= before.max() {
            return Err(Error::MergeOrder {
                input,
                txids: after,
                before,
            });
        }
    }

    let txids = TxidRange::new(first.txids().min(), last.txids().max())
        .expect("the last transactions of the inputs ascend");
    let header = Header::new(first.page_size(), last.commit(), txids, last.timestamp());
    if headers.iter().all(Header::has_checksums) {
        header.with_checksums(first.pre_apply())
    } else {
        Ok(header)
    }
}
