//! The buckets, and what tests see of them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use super::content::Content;

/// An object with what is known of it.
#[derive(Clone, Debug)]
pub struct StoredObject {
    pub(super) content: Content,
    pub(super) etag: String,
    pub(super) metadata: HashMap<String, String>,
    pub(super) modified: SystemTime,
}

/// A multipart upload that was neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// The key of the object that it would become.
    pub key: String,
    /// What names it in requests.
    pub id: String,
    /// When it was begun.
    pub begun: SystemTime,
    /// The numbers and sizes of the parts so far.
    pub parts: Vec<(i32, u64)>,
}

impl StoredObject {
    /// An object of those bytes, without metadata, modified now.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self::of(Content::from(body.into()))
    }

    /// An object of that many bytes of the [`pattern`](super::pattern), which takes no memory.
    pub fn of_pattern(length: u64) -> Self {
        Self::of(Content::of_pattern(length))
    }

    /// With a header `x-amz-meta-…`, by its name without that.
    pub fn with_metadata(mut self, name: &str, value: &str) -> Self {
        self.metadata.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Modified at another time. Headers tell it to the second.
    pub fn modified_at(mut self, time: SystemTime) -> Self {
        self.modified = time;
        self
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.content.len()
    }

    /// All of its bytes, in memory.
    pub fn bytes(&self) -> Bytes {
        self.range(0..self.size())
    }

    /// The bytes of a range, as far as there are any, in memory.
    pub fn range(&self, range: Range<u64>) -> Bytes {
        let chunks: Vec<_> = self.content.chunks(range).collect();
        chunks.concat().into()
    }

    /// The value of a header `x-amz-meta-…`, by its name without that.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(|value| &**value)
    }

    /// When it was put there, or what the test said.
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    /// Its ETag, without the quotes.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    pub(super) fn of(content: Content) -> Self {
        Self {
            etag: etag(&content),
            content,
            metadata: HashMap::new(),
            modified: SystemTime::now(),
        }
    }
}

/// All buckets. What it holds outlives the server's connections.
pub(super) struct Store {
    state: Mutex<State>,
}

struct State {
    buckets: BTreeMap<String, Bucket>,
    page_max: usize,
    part_min: u64,
    requests: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, StoredObject>,
    /// By key and id.
    pub(super) uploads: BTreeMap<(String, String), Upload>,
    begun: u64,
}

pub(super) struct Upload {
    pub(super) metadata: HashMap<String, String>,
    pub(super) begun: SystemTime,
    pub(super) parts: BTreeMap<i32, Part>,
}

#[derive(Clone)]
pub(super) struct Part {
    pub(super) content: Content,
    pub(super) modified: SystemTime,
}

impl Store {
    pub(super) fn with_bucket(name: &str) -> Self {
        let store = Self {
            state: Mutex::new(State {
                buckets: BTreeMap::new(),
                page_max: 1000,
                part_min: 5 << 20,
                requests: BTreeMap::new(),
            }),
        };
        store.create_bucket(name);
        store
    }

    /// Makes a bucket, and says whether it is new.
    pub(super) fn create_bucket(&self, name: &str) -> bool {
        let mut state = self.lock();
        let there = state.buckets.contains_key(name);
        state.buckets.entry(name.to_owned()).or_default();
        !there
    }

    /// What `read` finds in a bucket, if it is there.
    pub(super) fn read<T>(&self, bucket: &str, read: impl FnOnce(&Bucket) -> T) -> Option<T> {
        self.lock().buckets.get(bucket).map(read)
    }

    /// What `write` does to a bucket, if it is there.
    pub(super) fn write<T>(&self, bucket: &str, write: impl FnOnce(&mut Bucket) -> T) -> Option<T> {
        self.lock().buckets.get_mut(bucket).map(write)
    }

    pub(super) fn page_max(&self) -> usize {
        self.lock().page_max
    }

    pub(super) fn set_page_max(&self, entries: usize) {
        self.lock().page_max = entries;
    }

    pub(super) fn part_min(&self) -> u64 {
        self.lock().part_min
    }

    pub(super) fn set_part_min(&self, bytes: u64) {
        self.lock().part_min = bytes;
    }

    pub(super) fn count(&self, operation: &'static str) {
        *self.lock().requests.entry(operation).or_default() += 1;
    }

    pub(super) fn requests(&self, operation: &str) -> u64 {
        self.lock().requests.get(operation).copied().unwrap_or(0)
    }

    pub(super) fn requests_in_all(&self) -> u64 {
        self.lock().requests.values().sum()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Begins an upload, and names it. Ids ascend.
    pub(super) fn begin_upload(
        &mut self,
        key: &str,
        metadata: HashMap<String, String>,
        begun: SystemTime,
    ) -> String {
        self.begun += 1;
        let id = format!("upload-{:08}", self.begun);
        let upload = Upload {
            metadata,
            begun,
            parts: BTreeMap::new(),
        };
        self.uploads.insert((key.to_owned(), id.clone()), upload);
        id
    }

    pub(super) fn open_uploads(&self) -> Vec<OpenUpload> {
        self.uploads
            .iter()
            .map(|((key, id), upload)| OpenUpload {
                key: key.clone(),
                id: id.clone(),
                begun: upload.begun,
                parts: upload
                    .parts
                    .iter()
                    .map(|(number, part)| (*number, part.content.len()))
                    .collect(),
            })
            .collect()
    }
}

/// An ETag of content that came in one part.
pub(super) fn etag(content: &Content) -> String {
    format!("{:x}", content.checksum())
}
