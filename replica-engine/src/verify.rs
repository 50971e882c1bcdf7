//! Reads one file to its end: every byte of it, and what others want to see of its pages.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::StreamExt;
use ltx::{Decoder, Header, PageSize, Pgno, ReadError, Reader, Step, Trailer};
use replica_core::{FileId, FileInfo, ReplicaClient};

use crate::Damage;
use crate::damage::{ReadFailure, check_name};
use crate::fetch::{Follows, pieces};
use crate::restore::run_blocking;

/// What a sound file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sound {
    /// Its header.
    pub header: Header,
    /// Its trailer.
    pub trailer: Trailer,
    /// How many pages it holds.
    pub pages: u64,
}

/// Reads one LTX file from `source` to its end.
///
/// # Errors
///
/// Those of `source`, and what is wrong with the file.
pub fn check_file(source: impl Read) -> Result<Sound, ReadError> {
    let mut reader = Reader::new(source)?;
    let header = *reader.header();
    let mut page = vec![0; header.page_size().bytes()];
    let mut pages = 0;
    while reader.next_page(&mut page)?.is_some() {
        pages += 1;
    }
    let trailer = *reader
        .trailer()
        .expect("the last page is followed by the trailer");
    Ok(Sound {
        header,
        trailer,
        pages,
    })
}

/// Whoever wants to see what a file holds while it is read. Nothing of it is proven before its end.
pub(crate) trait Visit: Sized + Send + 'static {
    fn begin(&mut self, header: Header) -> Result<(), Damage>;
    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Damage>;
    fn end(&mut self, trailer: Trailer);
}

/// Wants to see nothing.
impl Visit for () {
    fn begin(&mut self, _: Header) -> Result<(), Damage> {
        Ok(())
    }

    fn page(&mut self, _: Pgno, _: &[u8]) -> Result<(), Damage> {
        Ok(())
    }

    fn end(&mut self, _: Trailer) {}
}

/// Reads one file of a replica to its end.
pub(crate) async fn verify(
    client: Arc<dyn ReplicaClient>,
    file: FileInfo,
    ahead: u64,
) -> Result<Sound, ReadFailure> {
    Ok(show(client, file, ahead, ()).await?.0)
}

/// Reads one file of a replica to its end, and shows it to `visitor`, who comes back.
pub(crate) async fn show<V: Visit>(
    client: Arc<dyn ReplicaClient>,
    file: FileInfo,
    ahead: u64,
    visitor: V,
) -> Result<(Sound, V), ReadFailure> {
    let mut reading = Reading {
        file: file.id,
        decoder: Decoder::new(),
        page: vec![0; PageSize::MAX.bytes()],
        page_size: PageSize::MAX,
        pages: 0,
        visitor,
    };
    let mut pieces = std::pin::pin!(pieces(client, vec![file], ahead));
    while let Some(piece) = pieces.next().await {
        let chunks = piece
            .bytes
            .map_err(|error| ReadFailure::new(file.id, error))?;
        let read = run_blocking(move || reading.read(&chunks)).await;
        reading = read.map_err(ReadFailure::Store)??;
        if piece.follows == Follows::Nothing {
            break;
        }
    }
    let trailer = reading.decoder.finish();
    let trailer = trailer.map_err(|error| Damage::new(file.id, error))?;
    let header = *reading
        .decoder
        .header()
        .expect("a file that is whole has a header");
    reading.visitor.end(trailer);
    let sound = Sound {
        header,
        trailer,
        pages: reading.pages,
    };
    Ok((sound, reading.visitor))
}

/// A file that is being verified.
struct Reading<V> {
    file: FileId,
    decoder: Decoder,
    page: Vec<u8>,
    page_size: PageSize,
    pages: u64,
    visitor: V,
}

impl<V: Visit> Reading<V> {
    fn read(mut self, chunks: &[Bytes]) -> Result<Reading<V>, Damage> {
        for chunk in chunks {
            let mut input = &chunk[..];
            loop {
                let step = self.decoder.decode(&mut input, &mut self.page);
                match step.map_err(|error| Damage::new(self.file, error))? {
                    Step::NeedInput => break,
                    Step::Header(header) => {
                        check_name(self.file, &header)?;
                        self.page_size = header.page_size();
                        self.visitor.begin(header)?;
                    }
                    Step::Page(pgno) => {
                        self.pages += 1;
                        let (page, _) = self.page.split_at(self.page_size.bytes());
                        self.visitor.page(pgno, page)?;
                    }
                }
            }
        }
        Ok(self)
    }
}
