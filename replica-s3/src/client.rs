//! The client.

use std::num::NonZeroUsize;
use std::sync::Arc;

use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Layout, Level, Op, ReplicaClient, Result, Timestamp, Timestamps, Txid, async_trait,
};

use crate::bucket::Bucket;
use crate::config::S3Config;
use crate::delete::Deleter;
use crate::list::{self, Listed};
use crate::{read, write};

/// The URL scheme of replicas in S3.
pub(crate) const SCHEME: &str = "s3";

/// A replica in a bucket.
#[derive(Clone, Debug)]
pub struct S3Client {
    bucket: Arc<Bucket>,
    root: Root,
    deleter: Arc<Deleter>,
    part_size: u64,
    parts_in_flight: NonZeroUsize,
    heads_in_flight: NonZeroUsize,
    storage_class: Option<Arc<str>>,
}

impl S3Client {
    /// A client of the replica that `config` names. Sends no request.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for what can't be a bucket, a prefix or an endpoint, and
    /// for plain HTTP that is not allowed.
    pub fn new(config: S3Config) -> Result<S3Client> {
        let root = Root::new(&config.prefix)?;
        let bucket = Arc::new(Bucket::new(&config)?);
        let parts_in_flight = config
            .parts_in_flight
            .min(bucket.provider.parts_in_flight_max);
        Ok(S3Client {
            deleter: Arc::new(Deleter::new(Arc::clone(&bucket))),
            bucket,
            root,
            part_size: config.part_size,
            parts_in_flight,
            heads_in_flight: config.heads_in_flight,
            storage_class: config.storage_class.map(Arc::from),
        })
    }
}

#[async_trait]
impl ReplicaClient for S3Client {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::FULL
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        let listed = Listed {
            level,
            from,
            timestamps,
            heads_in_flight: self.heads_in_flight,
        };
        list::list(Arc::clone(&self.bucket), self.root.clone(), listed)
            .await
            .map_err(|error| error.during(Op::List, SCHEME))
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        read::open(Arc::clone(&self.bucket), self.key(file), file, range)
            .await
            .map_err(|error| error.of(file).during(Op::Open, SCHEME))
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let settings = write::Settings {
            part_size: self.part_size,
            parts_in_flight: self.parts_in_flight.get(),
            storage_class: self.storage_class.as_deref(),
        };
        write::write(
            &self.bucket,
            self.key(file),
            file,
            created_at,
            body,
            settings,
        )
        .await
        .map_err(|error| error.of(file).during(Op::Write, SCHEME))
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.deleter
            .files(&self.root, files)
            .await
            .map_err(|error| error.during(Op::Delete, SCHEME))
    }

    async fn delete_all(&self) -> Result<()> {
        self.deleter
            .everything(&self.root)
            .await
            .map_err(|error| error.during(Op::DeleteAll, SCHEME))
    }
}

impl S3Client {
    fn key(&self, file: FileId) -> String {
        self.root.key(&Layout::Bucket.path(file))
    }
}

/// The replica's root within its bucket: empty, or names with a slash between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root(Arc<str>);

impl Root {
    /// The longest key that S3 has, in bytes.
    const KEY_MAX: usize = 1024;

    fn new(prefix: &str) -> Result<Root> {
        let refused = |why: &str| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("the prefix {prefix:?} can't be used: {why}"),
            ))
        };
        let names: Vec<_> = prefix
            .split('/')
            .filter(|name| !matches!(*name, "" | "."))
            .collect();
        if names.contains(&"..") {
            return refused("`..` leads out of it");
        }
        if prefix.chars().any(|c| c.is_control()) {
            return refused("it has control characters");
        }
        let root = Root(names.join("/").into());
        let longest = root.key(&Layout::Bucket.path(FileId {
            level: Level::SNAPSHOT,
            txids: replica_core::TxidRange::single(Txid::FIRST),
        }));
        if longest.len() > Root::KEY_MAX {
            return refused("it is too long, as a key has at most 1,024 bytes");
        }
        Ok(root)
    }

    /// The key of what is at `path` below the root.
    pub(crate) fn key(&self, path: &str) -> String {
        if self.0.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.0)
        }
    }

    /// What the keys below the root begin with, unless it is the bucket itself.
    pub(crate) fn folder(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| format!("{}/", self.0))
    }

    /// The file that is at `key`, if one of the replica is.
    pub(crate) fn file(&self, key: &str) -> Option<FileId> {
        Layout::Bucket.parse(self.below(key)?)
    }

    /// Whether what is at `key` belongs to the replica: anything below its root, or only files
    /// where that is the bucket itself.
    pub(crate) fn holds(&self, key: &str) -> bool {
        match self.below(key) {
            Some(path) => !self.0.is_empty() || Layout::Bucket.parse(path).is_some(),
            None => false,
        }
    }

    fn below<'a>(&self, key: &'a str) -> Option<&'a str> {
        if self.0.is_empty() {
            return Some(key);
        }
        key.strip_prefix(&*self.0)?.strip_prefix('/')
    }
}
