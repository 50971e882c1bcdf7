//! A file that is read from a [`Read`].

use std::io::{self, Read};
use std::ops::Range;

use crate::decoder::{Decoder, Step};
use crate::error::Error;
use crate::header::{HEADER_SIZE, Header, Trailer};
use crate::page::Pgno;

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// Reads one file from a [`Read`], page by page: a [`Decoder`] that fetches its own input.
///
/// It reads in large pieces, so the source needs no buffer of its own.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    decoder: Decoder,
    header: Header,
    trailer: Option<Trailer>,
    chunk: Box<[u8]>,
    /// The part of `chunk` that was read, and is still to be decoded.
    unread: Range<usize>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn new(mut source: R) -> Result<Reader<R>, ReadError> {
        let mut bytes = Vec::with_capacity(HEADER_SIZE);
        source
            .by_ref()
            .take(HEADER_SIZE as u64)
            .read_to_end(&mut bytes)?;
        let header = Header::parse(&bytes)?;
        let mut decoder = Decoder::new();
        decoder.decode(&mut bytes.as_slice(), &mut [])?;
        Ok(Reader {
            source,
            decoder,
            header,
            trailer: None,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            unread: 0..0,
        })
    }

    /// The file's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next page into the first bytes of `page`, which must have room for it.
    ///
    /// `None` says that the file has ended, is whole, and everything in it agrees. Nothing is
    /// proven before.
    pub fn next_page(&mut self, page: &mut [u8]) -> Result<Option<Pgno>, ReadError> {
        while self.trailer.is_none() {
            let mut input = self.chunk.get(self.unread.clone()).unwrap_or_default();
            let step = self.decoder.decode(&mut input, page);
            self.unread.start = self.unread.end - input.len();
            match step? {
                Step::Page(pgno) => return Ok(Some(pgno)),
                Step::Header(_) => {}
                Step::NeedInput => {
                    let len = read(&mut self.source, &mut self.chunk)?;
                    if len == 0 {
                        self.trailer = Some(self.decoder.finish()?);
                    }
                    self.unread = 0..len;
                }
            }
        }
        Ok(None)
    }

    /// What the file ends with, once [`next_page`](Reader::next_page) gave `None`.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }
}

fn read(source: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The source failed.
    #[error("read failed")]
    Io(#[from] io::Error),
    /// The bytes are not a valid LTX file.
    #[error(transparent)]
    Ltx(#[from] Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::{Compression, Encoder};
    use crate::error::Part;
    use crate::page::PageSize;
    use crate::timestamp::Timestamp;
    use crate::txid::{Txid, TxidRange};

    #[test]
    fn the_end_of_a_file_gives_its_trailer_and_stays() {
        let mut reader = Reader::new(io::Cursor::new(file())).unwrap();
        let mut page = [0; 512];

        assert_eq!(reader.trailer(), None);
        assert_eq!(reader.next_page(&mut page).unwrap(), Some(Pgno::FIRST));
        assert_eq!(page, [7; 512]);
        assert_eq!(reader.next_page(&mut page).unwrap(), None);
        assert_eq!(reader.next_page(&mut page).unwrap(), None);
        assert!(reader.trailer().is_some());
    }

    #[test]
    fn a_cut_file_is_an_error_that_stays() {
        let file = file();
        let len = file.len() as u64 - 1;
        let mut reader = Reader::new(file.as_slice().take(len)).unwrap();
        let mut page = [0; 512];
        reader.next_page(&mut page).unwrap();

        for _ in 0..2 {
            match reader.next_page(&mut page) {
                Err(ReadError::Ltx(error)) => {
                    let part = Part::Trailer;
                    assert_eq!(error, Error::Truncated { len, part });
                }
                result => panic!("{result:?}"),
            }
        }
        assert_eq!(reader.trailer(), None);
    }

    #[test]
    fn a_source_that_was_interrupted_or_failed_is_asked_again() {
        let source = Moody {
            file: file(),
            moods: vec![
                io::ErrorKind::TimedOut,
                io::ErrorKind::Interrupted,
                io::ErrorKind::Interrupted,
            ],
            at: 0,
        };
        let mut reader = Reader::new(source).unwrap();
        let mut page = [0; 512];

        let failed = reader.next_page(&mut page);

        assert!(matches!(failed, Err(ReadError::Io(_))), "{failed:?}");
        assert_eq!(reader.next_page(&mut page).unwrap(), Some(Pgno::FIRST));
        assert_eq!(reader.next_page(&mut page).unwrap(), None);
    }

    /// A source that fails for each of its moods after the header, the last one first.
    struct Moody {
        file: Vec<u8>,
        moods: Vec<io::ErrorKind>,
        at: usize,
    }

    impl Read for Moody {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.at >= HEADER_SIZE
                && let Some(mood) = self.moods.pop()
            {
                return Err(mood.into());
            }
            let len = (&self.file[self.at..]).read(buffer)?;
            self.at += len;
            Ok(len)
        }
    }

    fn file() -> Vec<u8> {
        let txids = TxidRange::single(Txid::FIRST);
        let header = Header::new(PageSize::MIN, 1, txids, Timestamp::EPOCH);
        let mut file = Vec::new();
        let mut encoder = Encoder::new(header, Compression::Blocks, &mut file);
        encoder.page(Pgno::FIRST, &[7; 512], &mut file).unwrap();
        encoder.finish(None, &mut file).unwrap();
        file
    }
}
