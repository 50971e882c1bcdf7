//! Puts files of a replica together, from the store to the store: there is no local copy.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use ltx::{Compression, HEADER_SIZE, Header, Merge, MergeStep};
use replica_core::{Body, ByteStream, Error, ErrorKind, FileInfo, ReplicaClient};

use super::due::{INPUTS_MAX, Merging};
use super::error::UpkeepError;
use crate::damage::{ReadFailure, check_name};
use crate::fetch::{Follows, Piece, pieces_of};
use crate::listing::read_header;
use crate::replicate::lock;
use crate::restore::run_blocking;
use crate::{Damage, Fault};

/// How many bytes of all files are in memory at a time, and the least of one.
const FETCH_AHEAD: u64 = 12 * 1024 * 1024;
const PIECE_MIN: u64 = FETCH_AHEAD / (PIECES * INPUTS_MAX as u64);
/// The most of one file that is worth a request.
const PIECE_MAX: u64 = 1024 * 1024;
/// How many pieces of one file are in memory: one that is merged, one that is there, and one that
/// is under way.
const PIECES: u64 = 3;
/// How many pieces of one file are fetched ahead.
const FETCHES: usize = 2;
/// Of how many files the first piece is fetched at a time.
const BEGINNINGS: usize = 8;
/// Up to how many bytes of files are put together in memory, so that a store can be told a length.
const IN_MEMORY_MAX: u64 = 4 * 1024 * 1024;
/// How many bytes of a larger file are handed on at a time.
const CHUNK_SIZE: usize = 256 * 1024;

/// Reads the inputs, each to its end, and stores what they make together. Where one of them is
/// damaged nothing is stored.
///
/// It can be dropped at any time, and done again: that stores the same bytes under the same name.
pub(crate) async fn merge(
    client: &Arc<dyn ReplicaClient>,
    merging: &Merging,
) -> Result<FileInfo, UpkeepError> {
    let Merging { output, inputs } = merging;
    let bytes: u64 = inputs.iter().map(|file| file.size).sum();
    let failure = Failure::default();
    let (body, header) = if bytes <= IN_MEMORY_MAX {
        let mut making = Making::new(client, merging).await?;
        let mut whole = Vec::new();
        while let Some(bytes) = making.next().await? {
            whole.extend_from_slice(&bytes);
        }
        let header = Header::parse(&whole).map_err(|error| making.fault(error))?;
        (whole.into(), header)
    } else {
        let last = inputs.last().expect("something is put together");
        let header = read_header(&**client, last.id).await.map_err(failed)?;
        (streamed(client, merging, &failure), header)
    };
    let written = client.write(*output, header.timestamp(), body).await;
    written.map_err(|error| lock(&failure).take().unwrap_or(error.into()))
}

/// Where the reason is kept for which a body failed: the error of the store that it leads to can
/// be anything.
type Failure = Arc<Mutex<Option<UpkeepError>>>;

fn streamed(client: &Arc<dyn ReplicaClient>, merging: &Merging, failure: &Failure) -> Body {
    let (client, merging) = (Arc::clone(client), merging.clone());
    let failure = Arc::clone(failure);
    Body::reopenable(None, move || {
        let (client, merging) = (Arc::clone(&client), merging.clone());
        let failure = Arc::clone(&failure);
        async move {
            let making = match Making::new(&client, &merging).await {
                Ok(making) => making,
                Err(error) => return Err(note(&failure, error)),
            };
            let state = (making, failure);
            let stream = stream::try_unfold(state, |(mut making, failure)| async move {
                match making.next().await {
                    Ok(bytes) => Ok(bytes.map(|bytes| (bytes, (making, failure)))),
                    Err(error) => Err(note(&failure, error)),
                }
            });
            Ok(Box::pin(stream) as ByteStream)
        }
    })
}

/// The error that a body ends in, of which the store makes its own.
fn note(failure: &Failure, error: UpkeepError) -> Error {
    let kind = match &error {
        UpkeepError::Store(error) => error.kind(),
        _ => ErrorKind::Corrupt,
    };
    let message = error.to_string();
    *lock(failure) = Some(error);
    Error::new(kind, message)
}

fn failed(failure: ReadFailure) -> UpkeepError {
    match failure {
        ReadFailure::Damaged(damage) => damage.into(),
        ReadFailure::Store(error) => error.into(),
    }
}

/// A file that is being made of others.
struct Making {
    merging: Merging,
    inputs: Vec<Input>,
    merge: Merge,
    done: bool,
}

/// A file that is being read.
type Input = Pin<Box<dyn Stream<Item = Piece> + Send>>;

impl Making {
    /// Begins to read all inputs.
    async fn new(
        client: &Arc<dyn ReplicaClient>,
        merging: &Merging,
    ) -> Result<Making, UpkeepError> {
        let files = &merging.inputs;
        let size = piece_size(files);
        let begin = |file: FileInfo| {
            let mut input: Input =
                Box::pin(pieces_of(Arc::clone(client), vec![file], size, FETCHES));
            async move {
                let piece = input.next().await;
                (input, piece)
            }
        };
        let mut beginnings =
            stream::iter(files.iter().copied().map(begin).collect::<Vec<_>>()).buffered(BEGINNINGS);
        let mut making = Making {
            merging: merging.clone(),
            inputs: Vec::with_capacity(files.len()),
            merge: Merge::new(files.len(), Compression::Blocks),
            done: false,
        };
        while let Some((input, piece)) = beginnings.next().await {
            let number = making.inputs.len();
            making.inputs.push(input);
            making.supply(number, piece, true)?;
        }
        Ok(making)
    }

    /// The next bytes of the file, or `None` where all were made.
    async fn next(&mut self) -> Result<Option<Bytes>, UpkeepError> {
        let mut out = Vec::new();
        while !self.done && out.len() < CHUNK_SIZE {
            let mut merge = std::mem::replace(&mut self.merge, Merge::new(0, Compression::Blocks));
            let stepped = run_blocking(move || {
                let step = advance(&mut merge, &mut out);
                (merge, out, step)
            });
            let step;
            (self.merge, out, step) = stepped.await?;
            match step.map_err(|error| self.fault(error))? {
                MergeStep::NeedInput(number) => {
                    let piece = match self.inputs.get_mut(number) {
                        Some(input) => input.next().await,
                        None => None,
                    };
                    self.supply(number, piece, false)?;
                }
                MergeStep::Page(_) => {}
                MergeStep::Done(_) => self.done = true,
            }
        }
        Ok(Some(out).filter(|out| !out.is_empty()).map(Bytes::from))
    }

    /// Gives the merge what was read of an input, or tells it that there is no more.
    fn supply(
        &mut self,
        number: usize,
        piece: Option<Piece>,
        is_first: bool,
    ) -> Result<(), UpkeepError> {
        let Some(Piece {
            file,
            bytes,
            follows,
        }) = piece
        else {
            self.merge.end(number);
            return Ok(());
        };
        let chunks = bytes.map_err(|error| failed(ReadFailure::new(file.id, error)))?;
        let bytes = match <[Bytes; 1]>::try_from(chunks) {
            Ok([bytes]) => bytes,
            Err(chunks) => chunks.concat().into(),
        };
        if let (true, Some(header)) = (is_first, bytes.get(..HEADER_SIZE)) {
            let header = Header::parse(header).map_err(|error| Damage::new(file.id, error))?;
            check_name(file.id, &header)?;
        }
        self.merge.supply(number, bytes);
        if follows != Follows::More {
            self.merge.end(number);
        }
        Ok(())
    }

    /// Tells which of the files is to blame, where one is.
    fn fault(&self, error: ltx::Error) -> UpkeepError {
        let Merging { output, inputs } = &self.merging;
        let id = |number: usize| inputs.get(number).map(|file| file.id);
        let damage = match &error {
            ltx::Error::MergeInput { input, error } => {
                id(*input).map(|file| Damage::new(file, (**error).clone()))
            }
            ltx::Error::MergeChain {
                input,
                pre_apply,
                post_apply,
            } => id(*input).map(|file| {
                let (pre_apply, post_apply) = (*pre_apply, *post_apply);
                Damage::new(
                    file,
                    Fault::Chain {
                        pre_apply,
                        post_apply,
                    },
                )
            }),
            ltx::Error::MergePageSize {
                input,
                found,
                first,
            } => id(*input)
                .zip(id(input.saturating_sub(1)))
                .map(|(file, before)| {
                    let (found, expected) = (*found, *first);
                    Damage::new(
                        file,
                        Fault::PageSize {
                            found,
                            expected,
                            before,
                        },
                    )
                }),
            _ => None,
        };
        match damage {
            Some(damage) => damage.into(),
            None => UpkeepError::Unfit {
                output: *output,
                source: error,
            },
        }
    }
}

/// How many bytes of one file are fetched at a time: what small files don't take is left to the
/// others, so that a large file among many small ones is fetched in few requests.
fn piece_size(files: &[FileInfo]) -> u64 {
    let mut sizes: Vec<u64> = files.iter().map(|file| file.size).collect();
    sizes.sort_unstable();
    let mut left = FETCH_AHEAD;
    for (smaller, size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - smaller) as u64;
        if *size > share {
            return (share / PIECES).clamp(PIECE_MIN, PIECE_MAX);
        }
        left -= size;
    }
    PIECE_MAX
}

/// Goes on until something is needed, or there is enough to be handed on.
fn advance(merge: &mut Merge, out: &mut Vec<u8>) -> Result<MergeStep, ltx::Error> {
    loop {
        match merge.step(out)? {
            MergeStep::Page(_) if out.len() < CHUNK_SIZE => {}
            step => return Ok(step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replica_core::{FileId, Level, Timestamp, Txid, TxidRange};

    fn files(sizes: &[u64]) -> Vec<FileInfo> {
        let file = |size: &u64| FileInfo {
            id: FileId {
                level: Level::RAW,
                txids: TxidRange::single(Txid::FIRST),
            },
            size: *size,
            created_at: Timestamp::EPOCH,
        };
        sizes.iter().map(file).collect()
    }

    #[test]
    fn a_large_file_among_many_small_ones_is_fetched_in_large_pieces() {
        let mut sizes = vec![10_000; 200];
        sizes.push(1 << 40);

        assert_eq!(piece_size(&files(&sizes)), PIECE_MAX);
    }

    #[test]
    fn what_is_fetched_of_all_files_is_bounded() {
        for count in [1, 2, 50, INPUTS_MAX] {
            let size = piece_size(&files(&vec![1 << 40; count]));

            assert!(
                size >= PIECE_MIN && PIECES * size * count as u64 <= FETCH_AHEAD,
                "{count}"
            );
        }
    }
}
