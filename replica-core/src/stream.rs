//! The streams that a client returns, and what makes them keep the contract.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::{Error, ErrorKind, FileInfo, Result, Txid};

/// The bytes of a range, in chunks of any size. Owned: it borrows nothing of the client.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// The files of a level. Owned: it borrows nothing of the client.
pub type FileStream = BoxStream<'static, Result<FileInfo>>;

/// The same bytes, ending in an error unless there are exactly `promised` of them (K5).
///
/// Wrap every stream that comes from a library: several of them end early without an error when
/// a connection does. What arrives beyond the promise is not passed on. The error's kind is
/// [`Unavailable`](ErrorKind::Unavailable), because a cut connection is the usual cause, so that
/// a retrying caller resumes.
pub fn exactly(stream: ByteStream, promised: u64) -> ByteStream {
    exactly_or(stream, promised, move |arrived| {
        let message = if arrived < promised {
            format!("the body ended after {arrived} of {promised} bytes")
        } else {
            format!("the body went on after the {promised} bytes that were promised")
        };
        Error::new(ErrorKind::Unavailable, message)
    })
}

/// As [`exactly`], with the error that `mismatch` makes of the number of bytes that arrived,
/// which is more than `promised` when it is called for the first byte too many.
pub(crate) fn exactly_or(
    stream: ByteStream,
    promised: u64,
    mismatch: impl FnOnce(u64) -> Error + Send + 'static,
) -> ByteStream {
    struct Counting<F> {
        stream: ByteStream,
        arrived: u64,
        mismatch: F,
    }
    let counting = Counting {
        stream,
        arrived: 0,
        mismatch,
    };
    stream::unfold(Some(counting), move |state| async move {
        let mut state = state?;
        match state.stream.next().await {
            Some(Ok(chunk)) => {
                state.arrived = state.arrived.saturating_add(chunk.len() as u64);
                if state.arrived > promised {
                    Some((Err((state.mismatch)(state.arrived)), None))
                } else {
                    Some((Ok(chunk), Some(state)))
                }
            }
            Some(Err(error)) => Some((Err(error), None)),
            None if state.arrived < promised => Some((Err((state.mismatch)(state.arrived)), None)),
            None => None,
        }
    })
    .boxed()
}

/// The listing of a level whose files the store gave all at once and in no order: those from
/// `from` on, ascending, each once (K8).
pub fn listing(mut files: Vec<FileInfo>, from: Txid) -> FileStream {
    files.retain(|file| file.id.txids.min() >= from);
    files.sort_unstable_by_key(|file| file.id);
    files.dedup_by_key(|file| file.id);
    stream::iter(files.into_iter().map(Ok)).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileId, Level, Timestamp, TxidRange};
    use futures::TryStreamExt;
    use futures::executor::block_on;

    fn chunks(sizes: &[usize]) -> ByteStream {
        let chunks: Vec<_> = sizes
            .iter()
            .map(|size| Ok(Bytes::from(vec![7; *size])))
            .collect();
        stream::iter(chunks).boxed()
    }

    fn collect(stream: ByteStream) -> Result<usize> {
        block_on(stream.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }))
    }

    #[test]
    fn a_stream_of_the_promised_length_passes() {
        assert_eq!(collect(exactly(chunks(&[]), 0)).unwrap(), 0);
        assert_eq!(collect(exactly(chunks(&[3, 0, 4]), 7)).unwrap(), 7);
    }

    #[test]
    fn a_short_stream_ends_in_an_error() {
        let error = collect(exactly(chunks(&[3, 3]), 7)).unwrap_err();

        assert!(error.is_transient());
        assert_eq!(error.to_string(), "the body ended after 6 of 7 bytes");
    }

    #[test]
    fn what_comes_beyond_the_promise_is_not_passed_on() {
        let items = block_on(exactly(chunks(&[3, 5, 1]), 7).collect::<Vec<_>>());

        assert_eq!(items.len(), 2);
        assert_eq!(items[0].as_ref().unwrap().len(), 3);
        assert_eq!(
            items[1].as_ref().unwrap_err().to_string(),
            "the body went on after the 7 bytes that were promised"
        );
    }

    #[test]
    fn an_error_of_the_stream_ends_it() {
        let failing = stream::iter([
            Err(Error::new(ErrorKind::Other, "broken")),
            Ok(Bytes::new()),
        ]);

        let items = block_on(exactly(failing.boxed(), 7).collect::<Vec<_>>());

        assert_eq!(items.len(), 1);
        assert_eq!(items[0].as_ref().unwrap_err().to_string(), "broken");
    }

    #[test]
    fn a_listing_is_sorted_cut_and_has_each_file_once() {
        let file = |min, max| FileInfo {
            id: FileId {
                level: Level::RAW,
                txids: TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap(),
            },
            size: 1,
            created_at: Timestamp::EPOCH,
        };
        let found = vec![
            file(16, 16),
            file(2, 9),
            file(2, 3),
            file(1, 1),
            file(16, 16),
        ];

        let listed: Vec<_> = block_on(listing(found, Txid::new(2).unwrap()).try_collect()).unwrap();

        assert_eq!(listed, [file(2, 3), file(2, 9), file(16, 16)]);
    }
}
