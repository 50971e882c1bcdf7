//! What is written.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};

use crate::stream::exactly_or;
use crate::{ByteStream, Error, ErrorKind, Result};

/// The content of a file to be written: bytes in memory, something that can be opened again
/// (a local file), or a stream that can be read once.
///
/// A body knows its size where it can, and its stream ends in an error where that size turns
/// out wrong, so that no client can store half of one.
pub struct Body {
    source: Source,
    len: Option<u64>,
}

enum Source {
    Bytes(Bytes),
    Reopenable(Arc<Open>),
    Once(ByteStream),
}

type Open = dyn Fn() -> BoxFuture<'static, Result<ByteStream>> + Send + Sync;

impl Body {
    /// A body that `open` opens anew for each attempt, each time with the same bytes: `len` of
    /// them, where that is known.
    ///
    /// For a local file, `open` opens the file.
    pub fn reopenable<F, O>(len: impl Into<Option<u64>>, open: O) -> Body
    where
        O: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<ByteStream>> + Send + 'static,
    {
        Body {
            source: Source::Reopenable(Arc::new(move || open().boxed())),
            len: len.into(),
        }
    }

    /// A body that can be read once: `len` bytes, where that is known.
    pub fn once(len: impl Into<Option<u64>>, stream: ByteStream) -> Body {
        Body {
            source: Source::Once(stream),
            len: len.into(),
        }
    }

    /// How many bytes it has, where it knows.
    pub fn size(&self) -> Option<u64> {
        self.len
    }

    /// The bytes, where they are in memory anyway.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.source {
            Source::Bytes(bytes) => Some(bytes),
            Source::Reopenable(_) | Source::Once(_) => None,
        }
    }

    /// The same body for one more attempt, or `None` where it can be read only once. Costs no
    /// copy of the bytes.
    pub fn try_clone(&self) -> Option<Body> {
        let source = match &self.source {
            Source::Bytes(bytes) => Source::Bytes(bytes.clone()),
            Source::Reopenable(open) => Source::Reopenable(Arc::clone(open)),
            Source::Once(_) => return None,
        };
        Some(Body {
            source,
            len: self.len,
        })
    }

    /// The bytes as a stream, which ends in an error of kind [`Invalid`](ErrorKind::Invalid)
    /// where they are fewer or more than [`size`](Body::size) said.
    pub fn into_stream(self) -> ByteStream {
        let stream = match self.source {
            Source::Bytes(bytes) if bytes.is_empty() => return stream::empty().boxed(),
            Source::Bytes(bytes) => return stream::once(async { Ok(bytes) }).boxed(),
            Source::Reopenable(open) => opened(open),
            Source::Once(stream) => stream,
        };
        match self.len {
            Some(len) => exactly_or(stream, len, move |arrived| {
                let fault = if arrived < len { "shorter" } else { "longer" };
                Error::new(
                    ErrorKind::Invalid,
                    format!("the body is {fault} than the {len} bytes it was said to have"),
                )
            }),
            None => stream,
        }
    }

    /// The same body with each of its streams seen through `layer`, which must pass on the same
    /// number of bytes: a layer that counts, delays or checks them. Opening the body is part of
    /// its stream, so `layer` sees how long that takes too.
    #[must_use]
    pub fn map_stream(
        self,
        layer: impl Fn(ByteStream) -> ByteStream + Send + Sync + 'static,
    ) -> Body {
        let len = self.len;
        match self.source {
            Source::Bytes(bytes) => Body::reopenable(len, move || {
                let stream = layer(Body::from(bytes.clone()).into_stream());
                async move { Ok(stream) }
            }),
            Source::Reopenable(open) => Body::reopenable(len, move || {
                let stream = layer(opened(Arc::clone(&open)));
                async move { Ok(stream) }
            }),
            Source::Once(stream) => Body::once(len, layer(stream)),
        }
    }

    /// The same body with its first `count` bytes, or all of them where it is shorter, read ahead
    /// of it.
    pub(crate) async fn peek(self, count: usize) -> Result<(Bytes, Body)> {
        let again = self.try_clone();
        let len = self.len;
        let mut stream = self.into_stream();
        let mut head = Vec::with_capacity(count);
        let mut read = Vec::new();
        while head.len() < count {
            let Some(chunk) = stream.try_next().await? else {
                break;
            };
            head.extend_from_slice(&chunk[..chunk.len().min(count - head.len())]);
            read.push(Ok(chunk));
        }
        let body =
            again.unwrap_or_else(|| Body::once(len, stream::iter(read).chain(stream).boxed()));
        Ok((head.into(), body))
    }
}

/// What `open` opens, as a stream that begins by opening it.
fn opened(open: Arc<Open>) -> ByteStream {
    async move { open().await }.try_flatten_stream().boxed()
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        let len = Some(bytes.len() as u64);
        Body {
            source: Source::Bytes(bytes),
            len,
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Bytes::from(bytes).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Body {
        Bytes::from_static(bytes).into()
    }
}

/// Says what kind of body it is and how long, and never what it holds.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::Bytes(_) => "bytes",
            Source::Reopenable(_) => "reopenable",
            Source::Once(_) => "once",
        };
        f.debug_struct("Body")
            .field("source", &source)
            .field("len", &self.len)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;

    fn two_chunks() -> ByteStream {
        stream::iter([
            Ok(Bytes::from_static(b"hel")),
            Ok(Bytes::from_static(b"lo")),
        ])
        .boxed()
    }

    fn read(body: Body) -> Result<Vec<u8>> {
        block_on(
            body.into_stream()
                .map_ok(|chunk| chunk.to_vec())
                .try_concat(),
        )
    }

    #[test]
    fn a_body_is_read_whole() {
        assert_eq!(read(Body::from(b"hello".to_vec())).unwrap(), b"hello");
        assert_eq!(read(Body::once(5, two_chunks())).unwrap(), b"hello");
        assert_eq!(read(Body::once(None, two_chunks())).unwrap(), b"hello");
        assert_eq!(read(Body::from(Vec::new())).unwrap(), b"");
    }

    #[test]
    fn a_body_of_another_length_than_it_said_is_invalid() {
        for (len, fault) in [(4, "longer"), (6, "shorter")] {
            let error = read(Body::once(len, two_chunks())).unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(fault), "{error}");
        }
    }

    #[test]
    fn only_a_stream_can_not_be_sent_again() {
        let reopenable = Body::reopenable(5, || async { Ok(two_chunks()) });
        let again = reopenable.try_clone().expect("it can be opened again");

        assert_eq!(read(reopenable).unwrap(), read(again).unwrap());
        assert!(Body::from(vec![1]).try_clone().is_some());
        assert!(Body::once(5, two_chunks()).try_clone().is_none());
    }

    #[test]
    fn peeking_takes_nothing_away() {
        for body in [
            Body::once(5, two_chunks()),
            Body::once(None, two_chunks()),
            Body::from(b"hello".to_vec()),
            Body::reopenable(5, || async { Ok(two_chunks()) }),
        ] {
            let (head, body) = block_on(body.peek(4)).unwrap();

            assert_eq!(head, b"hell"[..]);
            assert_eq!(read(body).unwrap(), b"hello");
        }
    }

    #[test]
    fn a_short_body_is_peeked_whole() {
        let (head, body) = block_on(Body::once(None, two_chunks()).peek(100)).unwrap();

        assert_eq!(head, b"hello"[..]);
        assert_eq!(read(body).unwrap(), b"hello");
    }

    #[test]
    fn a_mapped_body_sees_its_opening() {
        let body = Body::reopenable(5, || async {
            Err(Error::new(ErrorKind::NotFound, "the source is gone"))
        });

        let body = body.map_stream(|stream| {
            let seen = |error: Error| Error::new(ErrorKind::Other, format!("seen: {error}"));
            stream.map_err(seen).boxed()
        });

        assert_eq!(
            read(body).unwrap_err().to_string(),
            "seen: the source is gone"
        );
    }

    #[test]
    fn a_mapped_body_keeps_its_length_and_can_still_be_sent_again() {
        let body = Body::from(b"hello".to_vec()).map_stream(|stream| stream);

        assert_eq!(body.size(), Some(5));
        let again = body.try_clone().expect("bytes can be sent again");
        assert_eq!(read(body).unwrap(), b"hello");
        assert_eq!(read(again).unwrap(), b"hello");
    }
}
