//! Deleting files, or everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use md5::{Digest, Md5};
use replica_core::{Error, FileId, Layout, Level, Result};

use crate::bucket::Bucket;
use crate::client::Root;
use crate::fault::{Fault, Refusal};
use crate::list::Pages;
use crate::providers::OpenUploads;
use crate::wire::{self, Deleted, NotDeleted, UploadPage};

/// How many keys a request to delete names: as many as S3 takes.
const BATCH: usize = 1000;

/// How many keys are deleted at the same time, or uploads aborted, one request each.
const AT_ONCE: usize = 16;

/// How many pages of open uploads are read. Each has a thousand of them, and a bucket that has as
/// many as this has lost its rule for incomplete ones.
const UPLOAD_PAGES_MAX: usize = 100;

/// Deletes, in batches as long as the store has not refused one.
#[derive(Debug)]
pub(crate) struct Deleter {
    bucket: Arc<Bucket>,
    batches: AtomicBool,
}

/// A key that is still there, and why.
type Left = (String, Fault);

impl Deleter {
    pub(crate) fn new(bucket: Arc<Bucket>) -> Deleter {
        Deleter {
            bucket,
            batches: AtomicBool::new(true),
        }
    }

    /// Deletes `files`. The error names those that are left.
    pub(crate) async fn files(&self, root: &Root, files: &[FileId]) -> Result<()> {
        let mut by_key = HashMap::with_capacity(files.len());
        let mut keys = Vec::with_capacity(files.len());
        for file in files {
            let key = root.key(&Layout::Bucket.path(*file));
            if by_key.insert(key.clone(), *file).is_none() {
                keys.push(key);
            }
        }
        let left = self.keys(keys).await;
        let Some(error) = self.worst(&left) else {
            return Ok(());
        };
        let mut named: Vec<_> = left
            .iter()
            .filter_map(|(key, _)| by_key.get(key).copied())
            .collect();
        named.sort_unstable();
        Err(error.of_files(named))
    }

    /// Deletes everything below `root`, open uploads first.
    pub(crate) async fn everything(&self, root: &Root) -> Result<()> {
        self.abort_uploads(root).await?;
        // Of a bucket whose root is a replica's, only the replica's folders are.
        let folders = match root.folder() {
            Some(folder) => vec![folder],
            None => Level::ALL
                .into_iter()
                .map(|level| format!("{}/", Layout::Bucket.folder(level)))
                .collect(),
        };
        for folder in folders {
            let mut pages = Pages::below(Arc::clone(&self.bucket), folder, None);
            while pages.is_more() {
                let page = pages.page().await?;
                let keys = page.contents.into_iter().map(|object| object.key);
                let left = self.keys(keys.collect()).await;
                if let Some(error) = self.worst(&left) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Deletes what is at `keys`, and gives what is left of it.
    async fn keys(&self, keys: Vec<String>) -> Vec<Left> {
        let (mut sayable, mut others): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| wire::can_say(key));
        let mut left = Vec::new();
        while self.batches.load(Ordering::Relaxed) && !sayable.is_empty() {
            let rest = sayable.split_off(sayable.len().min(BATCH));
            let batch = std::mem::replace(&mut sayable, rest);
            match self.batch(&batch).await {
                Ok(failed) => left.extend(failed),
                Err(fault) if is_no_batches(&fault) => {
                    self.batches.store(false, Ordering::Relaxed);
                    others.extend(batch);
                }
                Err(fault) => {
                    // What refuses a whole request would refuse the next one too.
                    let untried = batch.into_iter().chain(sayable).chain(others);
                    left.extend(untried.map(|key| (key, fault.clone())));
                    return left;
                }
            }
        }
        others.extend(sayable);
        left.extend(self.one_by_one(others).await);
        left
    }

    /// The error that the caller should hear of: one that trying again won't mend, if there is one.
    fn worst(&self, left: &[Left]) -> Option<Error> {
        let mut errors = left
            .iter()
            .map(|(key, fault)| self.bucket.error(fault.clone(), "delete", key));
        let first = errors.next()?;
        if first.is_transient() {
            Some(errors.find(|error| !error.is_transient()).unwrap_or(first))
        } else {
            Some(first)
        }
    }

    /// Deletes a batch in one request, and gives the keys that the store did not delete.
    async fn batch(&self, keys: &[String]) -> Result<Vec<Left>, Fault> {
        let body = Bytes::from(wire::delete(keys.iter().map(String::as_str)));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        // S3 and most others insist on it.
        let digest = BASE64_STANDARD.encode(Md5::digest(&body));
        headers.insert(
            HeaderName::from_static("content-md5"),
            HeaderValue::try_from(digest).expect("base64 is text"),
        );
        let answer = self
            .bucket
            .send(Method::POST, None, &[("delete", "")], headers, body)
            .await?;
        let (status, headers, body) = answer.collect().await?;
        // Some answer with nothing where there is nothing to say.
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Vec::new());
        }
        let deleted: Deleted = wire::read("DeleteResult", &body)?;
        let mut left = Vec::new();
        for error in deleted.errors {
            if error.code == "NoSuchKey" {
                continue;
            }
            // A failure that can't be told whose it is, is that of all.
            let whose = if keys.contains(&error.key) {
                std::slice::from_ref(&error.key)
            } else {
                keys
            };
            let fault = refusal(status, &headers, &error);
            left.extend(whose.iter().map(|key| (key.clone(), fault.clone())));
        }
        Ok(left)
    }

    async fn one_by_one(&self, keys: Vec<String>) -> Vec<Left> {
        stream::iter(keys)
            .map(|key| async move {
                match self.one(&key, &[]).await {
                    Ok(()) => None,
                    Err(fault) => Some((key, fault)),
                }
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// Deletes the object at `key`, or the upload to it that `query` names.
    async fn one(&self, key: &str, query: &[(&str, &str)]) -> Result<(), Fault> {
        let sent = self
            .bucket
            .send(
                Method::DELETE,
                Some(key),
                query,
                HeaderMap::new(),
                Bytes::new(),
            )
            .await;
        match sent {
            Ok(answer) => answer.collect().await.map(drop),
            Err(fault) if fault.has_code(&["NoSuchKey", "NoSuchUpload"]) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Aborts every open upload below `root` that the store lists.
    async fn abort_uploads(&self, root: &Root) -> Result<()> {
        let prefix = match self.bucket.provider.open_uploads {
            OpenUploads::OfPrefix => root.folder().unwrap_or_default(),
            OpenUploads::OfBucket => String::new(),
        };
        let fail = |fault| self.bucket.error(fault, "list the uploads to", &prefix);
        let mut marker: Option<(String, String)> = None;
        for _ in 0..UPLOAD_PAGES_MAX {
            let page = match self.uploads(&prefix, marker.as_ref()).await {
                Ok(page) => page,
                // A store that can't list uploads has none that anyone could find.
                Err(fault) if is_no_such_operation(&fault) => return Ok(()),
                Err(fault) => return Err(fail(fault)),
            };
            let mut ours = page.uploads;
            ours.retain(|upload| root.holds(&upload.key));
            let mut aborted = stream::iter(ours)
                .map(|upload| async move {
                    let query = [("uploadId", upload.upload_id.as_str())];
                    let aborted = self.one(&upload.key, &query).await;
                    aborted.map_err(|fault| {
                        self.bucket.error(fault, "abort an upload to", &upload.key)
                    })
                })
                .buffer_unordered(AT_ONCE);
            while let Some(result) = aborted.next().await {
                result?;
            }
            drop(aborted);
            if !page.is_truncated {
                return Ok(());
            }
            let next = page
                .next_key_marker
                .zip(Some(page.next_upload_id_marker.unwrap_or_default()));
            if next.is_none() || next == marker {
                let fault =
                    Fault::Nonsense("a part of a listing, but not how it goes on".to_owned());
                return Err(fail(fault));
            }
            marker = next;
        }
        let fault = Fault::Nonsense(format!("{UPLOAD_PAGES_MAX} pages of uploads, and no end"));
        Err(fail(fault))
    }

    async fn uploads(
        &self,
        prefix: &str,
        marker: Option<&(String, String)>,
    ) -> Result<UploadPage, Fault> {
        let mut query = Vec::with_capacity(4);
        if let Some((key, upload)) = marker {
            query.push(("key-marker", key.as_str()));
            query.push(("upload-id-marker", upload.as_str()));
        }
        if !prefix.is_empty() {
            query.push(("prefix", prefix));
        }
        query.push(("uploads", ""));
        let answer = self
            .bucket
            .send(Method::GET, None, &query, HeaderMap::new(), Bytes::new())
            .await?;
        let (_, _, body) = answer.collect().await?;
        wire::read("ListMultipartUploadsResult", &body)
    }
}

/// What the store says of one key of a batch, as if it had been asked for that alone.
fn refusal(status: StatusCode, headers: &HeaderMap, error: &NotDeleted) -> Fault {
    let whole = Refusal::read(status, headers, &[]);
    Refusal {
        code: error.code.clone(),
        message: error.message.clone(),
        ..whole
    }
    .into()
}

/// Whether the store has no deletion of several objects.
fn is_no_batches(fault: &Fault) -> bool {
    is_no_such_operation(fault) || fault.has_code(&["MalformedPOSTRequest", "InvalidRequest"])
}

fn is_no_such_operation(fault: &Fault) -> bool {
    fault.has_code(&["NotImplemented", "MethodNotAllowed", "UnsupportedOperation"])
        || fault.has_status(StatusCode::NOT_IMPLEMENTED)
        || fault.has_status(StatusCode::METHOD_NOT_ALLOWED)
}
