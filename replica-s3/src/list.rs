//! Listing the files of a level.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use http::header::RANGE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use replica_core::{
    Error, ErrorKind, FileId, FileInfo, FileStream, Layout, Level, Op, Result, Timestamp,
    Timestamps, Txid,
};

use crate::bucket::Bucket;
use crate::client::{Root, SCHEME};
use crate::fault::Fault;
use crate::time;
use crate::wire::{self, Page};

/// How many keys a page of a listing has: as many as S3 gives at once.
const PAGE_SIZE: &str = "1000";

/// What a listing shows.
pub(crate) struct Listed {
    pub(crate) level: Level,
    pub(crate) from: Txid,
    pub(crate) timestamps: Timestamps,
    pub(crate) heads_in_flight: NonZeroUsize,
}

/// Lists a level of the replica at `root`. The first page is there when the stream is.
pub(crate) async fn list(bucket: Arc<Bucket>, root: Root, listed: Listed) -> Result<FileStream> {
    let folder = root.key(&format!("{}/", Layout::Bucket.folder(listed.level)));
    let mut pages = Pages::below(Arc::clone(&bucket), folder.clone(), Some("/"));
    if listed.from > Txid::FIRST {
        // "<from>" sorts just before every "<from>-<max>.ltx".
        pages.next = Some(Next::After(format!("{folder}{}", listed.from)));
    }
    let first = pages.page().await?;

    let from = listed.from;
    let mut order = Order::default();
    let files = stream::iter([Ok(first)])
        .chain(pages.into_stream())
        .map_ok({
            let root = root.clone();
            move |page| {
                let files: Vec<_> = page
                    .contents
                    .into_iter()
                    .filter_map(|object| {
                        let id = root.file(&object.key)?;
                        (id.level == listed.level && id.txids.min() >= from)
                            .then(|| order.check(id).and_then(|()| info(id, &object)))
                    })
                    .collect();
                stream::iter(files)
            }
        })
        .try_flatten();
    let files = match listed.timestamps {
        Timestamps::Fast => files.boxed(),
        Timestamps::Exact => files
            .map_ok(move |info| exact(Arc::clone(&bucket), root.clone(), info))
            .try_buffered(listed.heads_in_flight.get())
            .try_filter_map(future::ok)
            .boxed(),
    };
    Ok(until_error(
        files
            .map_err(|error| error.during(Op::List, SCHEME))
            .boxed(),
    ))
}

/// The same files, with nothing behind an error.
fn until_error(files: FileStream) -> FileStream {
    stream::unfold(Some(files), |files| async move {
        let mut files = files?;
        match files.next().await? {
            Ok(info) => Some((Ok(info), Some(files))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// What the listing says of a file.
fn info(id: FileId, object: &wire::Object) -> Result<FileInfo> {
    let created_at = time::parse(&object.last_modified)
        .ok_or_else(|| Error::new(ErrorKind::Other, "the store says no time of it").of(id))?;
    Ok(FileInfo {
        id,
        size: object.size,
        created_at,
    })
}

/// Makes sure that files ascend, as they do in S3 and not in every store that resembles it.
#[derive(Default)]
struct Order(Option<FileId>);

impl Order {
    fn check(&mut self, id: FileId) -> Result<()> {
        if self.0.is_some_and(|last| id <= last) {
            return Err(Error::new(
                ErrorKind::Other,
                "the store does not list in order, which a replica needs",
            )
            .of(id));
        }
        self.0 = Some(id);
        Ok(())
    }
}

/// The same file with the time that it was written with, or `None` where it has been deleted
/// since it was listed.
async fn exact(bucket: Arc<Bucket>, root: Root, listed: FileInfo) -> Result<Option<FileInfo>> {
    let id = listed.id;
    let key = root.key(&Layout::Bucket.path(id));
    match head(&bucket, &key).await {
        Ok(Some(head)) => Ok(Some(FileInfo {
            id,
            size: head.size,
            created_at: head.created_at.ok_or_else(|| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "s3://{}/{key} does not say when it was created, in its metadata {}: was it copied without?",
                        bucket.place.bucket,
                        time::CREATED_AT
                    ),
                )
                .of(id)
            })?,
        })),
        Ok(None) => Ok(None),
        Err(fault) => Err(bucket.error(fault, "look at", &key).of(id)),
    }
}

/// What the store knows of a file beside its content.
pub(crate) struct Head {
    pub(crate) size: u64,
    /// When it was created, where its metadata says so.
    pub(crate) created_at: Option<Timestamp>,
    /// How many parts it was uploaded in, where its ETag tells.
    pub(crate) parts: Option<usize>,
}

/// Looks at the file at `key`, if there is one.
pub(crate) async fn head(bucket: &Bucket, key: &str) -> Result<Option<Head>, Fault> {
    let asked = bucket
        .send(Method::HEAD, Some(key), &[], bucket.reading(), Bytes::new())
        .await;
    let answer = match asked {
        Ok(answer) => answer,
        Err(fault) if fault.has_status(StatusCode::NOT_FOUND) => {
            // The bucket may be gone, or what answers may be no store.
            return match why(bucket, key).await {
                Some(fault) if !fault.has_code(&["NoSuchKey"]) => Err(fault),
                _ => Ok(None),
            };
        }
        Err(fault) if fault.has_code(&[""]) => {
            return Err(why(bucket, key).await.unwrap_or(fault));
        }
        Err(fault) => return Err(fault),
    };
    let size = answer
        .content_length()
        .ok_or_else(|| Fault::Nonsense("a file, but not how long it is".to_owned()))?;
    let created_at = answer
        .header(&format!("x-amz-meta-{}", time::CREATED_AT))
        .and_then(time::parse);
    let parts = answer
        .header("etag")
        .and_then(|tag| tag.trim_matches('"').rsplit_once('-')?.1.parse().ok());
    Ok(Some(Head {
        size,
        created_at,
        parts,
    }))
}

/// Why the store says no. An answer to HEAD has no words for it; one to GET does.
async fn why(bucket: &Bucket, key: &str) -> Option<Fault> {
    let mut headers = bucket.reading();
    headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
    bucket
        .send(Method::GET, Some(key), &[], headers, Bytes::new())
        .await
        .err()
}

/// The pages of a listing.
pub(crate) struct Pages {
    bucket: Arc<Bucket>,
    prefix: String,
    delimiter: Option<&'static str>,
    next: Option<Next>,
}

/// Where a page begins.
#[derive(Clone, PartialEq, Eq)]
enum Next {
    Start,
    /// Behind this key.
    After(String),
    /// Where this token of the store's says.
    Token(String),
}

impl Pages {
    /// The pages of what has a key that begins with `prefix`, without what lies behind another
    /// `delimiter`.
    pub(crate) fn below(
        bucket: Arc<Bucket>,
        prefix: String,
        delimiter: Option<&'static str>,
    ) -> Pages {
        Pages {
            bucket,
            prefix,
            delimiter,
            next: Some(Next::Start),
        }
    }

    /// Whether there is another page.
    pub(crate) fn is_more(&self) -> bool {
        self.next.is_some()
    }

    /// The next page.
    pub(crate) async fn page(&mut self) -> Result<Page> {
        let asked = self.next.take().unwrap_or(Next::Start);
        let page = self
            .ask(&asked)
            .await
            .map_err(|fault| self.bucket.error(fault, "list", &self.prefix))?;
        if page.is_truncated {
            let next = match (&page.next_continuation_token, page.contents.last()) {
                (Some(token), _) => Some(Next::Token(token.clone())),
                (None, Some(object)) => Some(Next::After(object.key.clone())),
                (None, None) => None,
            };
            // A store that leads in circles would be listed forever.
            self.next = next.filter(|next| *next != asked);
            if self.next.is_none() {
                let fault =
                    Fault::Nonsense("a part of a listing, but not how it goes on".to_owned());
                return Err(self.bucket.error(fault, "list", &self.prefix));
            }
        }
        Ok(page)
    }

    async fn ask(&self, next: &Next) -> Result<Page, Fault> {
        let mut query = Vec::with_capacity(5);
        match next {
            Next::Start => {}
            Next::After(key) => query.push(("start-after", key.as_str())),
            Next::Token(token) => query.push(("continuation-token", token)),
        }
        if let Some(delimiter) = self.delimiter {
            query.push(("delimiter", delimiter));
        }
        query.push(("list-type", "2"));
        query.push(("max-keys", PAGE_SIZE));
        query.push(("prefix", &self.prefix));
        let answer = self
            .bucket
            .send(Method::GET, None, &query, HeaderMap::new(), Bytes::new())
            .await?;
        let (_, _, body) = answer.collect().await?;
        wire::read("ListBucketResult", &body)
    }

    fn into_stream(self) -> stream::BoxStream<'static, Result<Page>> {
        stream::try_unfold(self, |mut pages| async move {
            if pages.is_more() {
                Ok(Some((pages.page().await?, pages)))
            } else {
                Ok(None)
            }
        })
        .boxed()
    }
}
