//! Reading a part of a file.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::{StreamExt, stream};
use http::header::{CONTENT_RANGE, ETAG, IF_MATCH, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use replica_core::{ByteRange, ByteStream, Error, ErrorKind, FileId, Op, Result};

use crate::bucket::Bucket;
use crate::client::SCHEME;
use crate::fault::Fault;
use crate::transport::{Answer, Incoming};

/// The largest offset that servers count to.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// Opens `range` of the file at `key`.
pub(crate) async fn open(
    bucket: Arc<Bucket>,
    key: String,
    file: FileId,
    range: ByteRange,
) -> Result<ByteStream> {
    // S3 has no empty ranges, and servers take an offset that they can't count to for none at all.
    if range.end() == Some(range.start()) || range.start() > OFFSET_MAX {
        let size = size(&bucket, &key).await?;
        range.resolve(size)?;
        return Ok(stream::empty().boxed());
    }
    let content = match Content::get(&bucket, &key, range, None).await {
        Ok(content) => content,
        Err(fault) if fault.has_status(StatusCode::RANGE_NOT_SATISFIABLE) => {
            let size = match fault.refusal().and_then(|refusal| refusal.size) {
                Some(size) => size,
                None => size(&bucket, &key).await?,
            };
            return if range.resolve(size)?.is_empty() {
                Ok(stream::empty().boxed())
            } else {
                Err(bucket.error(fault, "read", &key))
            };
        }
        Err(fault) => return Err(bucket.error(fault, "read", &key)),
    };
    // A server that takes no ranges sends all of the file.
    let wanted = range.resolve(content.size)?;
    Ok(Reading {
        bucket,
        key,
        file,
        position: wanted.start,
        end: wanted.end,
        version: content.version.clone(),
        size: content.size,
        content: Some(content),
        barren: false,
    }
    .into_stream())
}

/// How large the file at `key` is. Asked with GET, whose refusals say why, as those of HEAD don't.
async fn size(bucket: &Bucket, key: &str) -> Result<u64> {
    match Content::get(bucket, key, (0..1).into(), None).await {
        Ok(content) => Ok(content.size),
        Err(fault) if fault.has_status(StatusCode::RANGE_NOT_SATISFIABLE) => Ok(fault
            .refusal()
            .and_then(|refusal| refusal.size)
            .unwrap_or(0)),
        Err(fault) => Err(bucket.error(fault, "read", key)),
    }
}

/// What the server sends of a file.
struct Content {
    /// The offset in the file of the next byte that comes.
    at: u64,
    /// The size of the file.
    size: u64,
    /// What names this version of the file, if anything does for certain.
    version: Option<HeaderValue>,
    body: Incoming,
}

impl Content {
    /// Asks for `range`, of this version of the file if one is named.
    async fn get(
        bucket: &Bucket,
        key: &str,
        range: ByteRange,
        version: Option<&HeaderValue>,
    ) -> Result<Content, Fault> {
        let mut headers = bucket.reading();
        if range != ByteRange::ALL {
            headers.insert(RANGE, range_header(range));
        }
        if let Some(version) = version {
            headers.insert(IF_MATCH, version.clone());
        }
        let answer = bucket
            .send(Method::GET, Some(key), &[], headers, Bytes::new())
            .await?;
        let (at, size) = match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let (sent, size) = content_range(&answer.headers)
                    .ok_or_else(|| Fault::Nonsense("a part of a file, but not which".to_owned()))?;
                (sent.start, size)
            }
            _ => (0, content_length(&answer)?),
        };
        if at > range.start() {
            return Err(Fault::Nonsense(format!(
                "the file from byte {at} on, and not from {}",
                range.start()
            )));
        }
        Ok(Content {
            at,
            size,
            version: strong_version(&answer.headers),
            body: answer.body,
        })
    }

    /// The next bytes from `position` on.
    async fn next(&mut self, position: u64) -> Result<Option<Bytes>, Fault> {
        while let Some(mut chunk) = self.body.next().await? {
            let ahead = position.saturating_sub(self.at).min(chunk.len() as u64);
            self.at += chunk.len() as u64;
            chunk.advance(usize::try_from(ahead).expect("it is at most the chunk's length"));
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }
}

fn range_header(range: ByteRange) -> HeaderValue {
    let start = range.start();
    // The header names the last byte, and not the one behind it.
    let text = match range.end() {
        Some(end) => format!("bytes={start}-{}", (end - 1).min(OFFSET_MAX)),
        None => format!("bytes={start}-"),
    };
    HeaderValue::try_from(text).expect("digits are text")
}

/// Which bytes are sent, and of how many.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (sent, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = sent.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let size: u64 = size.trim().parse().ok()?;
    (first <= last && last < size).then(|| (first..last + 1, size))
}

fn content_length(answer: &Answer) -> Result<u64, Fault> {
    answer
        .content_length()
        .ok_or_else(|| Fault::Nonsense("a file, but not how long it is".to_owned()))
}

/// The version's name, unless it is a weak one, which versions of different bytes can share.
fn strong_version(headers: &HeaderMap) -> Option<HeaderValue> {
    headers
        .get(ETAG)
        .filter(|tag| !tag.is_empty() && !tag.as_bytes().starts_with(b"W/"))
        .cloned()
}

/// A range that is being read.
struct Reading {
    bucket: Arc<Bucket>,
    key: String,
    file: FileId,
    /// The offset of the next byte to give.
    position: u64,
    /// The offset behind the last byte to give.
    end: u64,
    version: Option<HeaderValue>,
    size: u64,
    content: Option<Content>,
    /// Whether the body was asked for again, and nothing has come of it yet.
    barren: bool,
}

impl Reading {
    fn into_stream(self) -> ByteStream {
        stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(chunk) => Some((Ok(chunk?), Some(reading))),
                Err(error) => {
                    let error = error.of(reading.file).during(Op::Open, SCHEME);
                    Some((Err(error), None))
                }
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.position < self.end {
            let content = match &mut self.content {
                Some(content) => content,
                none => none.insert(
                    self.bucket
                        .take_up(
                            &self.key,
                            self.position..self.end,
                            self.size,
                            self.version.as_ref(),
                        )
                        .await?,
                ),
            };
            let fault = match content.next(self.position).await {
                Ok(Some(mut chunk)) => {
                    let left = self.end - self.position;
                    if chunk.len() as u64 > left {
                        chunk.truncate(usize::try_from(left).expect("it is less than a length"));
                    }
                    self.position += chunk.len() as u64;
                    self.barren = false;
                    return Ok(Some(chunk));
                }
                Ok(None) => Fault::Broken(format!("the body ended at byte {}", self.position)),
                Err(fault) => fault,
            };
            // Once more at once: a connection that was idle for long is closed by any server.
            // What breaks twice at the same byte is for the layers, which wait.
            self.content = None;
            if self.barren || self.version.is_none() {
                return Err(self.bucket.error(fault, "read", &self.key));
            }
            self.barren = true;
        }
        Ok(None)
    }
}

impl Bucket {
    /// Asks for the rest of a range whose body broke, of the same version as before.
    async fn take_up(
        &self,
        key: &str,
        rest: Range<u64>,
        size: u64,
        version: Option<&HeaderValue>,
    ) -> Result<Content> {
        let content = Content::get(self, key, rest.into(), version)
            .await
            .map_err(|fault| self.error(fault, "read", key))?;
        // Not every server heeds the condition.
        if content.version.as_ref() != version || content.size != size {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("could not read {key} to its end: it was replaced meanwhile"),
            ));
        }
        Ok(content)
    }
}
