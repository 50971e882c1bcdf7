//! An S3 server in memory.
//!
//! ```
//! use testbed::{S3Server, StoredObject};
//!
//! let server = S3Server::start();
//! // … a client of `server.endpoint()`, `server.bucket()`, `server.access_key()` and so on …
//! server.put("folder/a", StoredObject::new("abc").with_metadata("made-by", "hand"));
//! assert_eq!(server.keys(), ["folder/a"]);
//! assert_eq!(server.object("folder/a").unwrap().bytes(), "abc");
//! ```

mod content;
mod operations;
mod store;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};

use self::operations::Operations;
use self::store::Store;
use crate::port::Port;

pub use self::content::pattern;
pub use self::store::{OpenUpload, StoredObject};

const ACCESS_KEY: &str = "testbed-access-key";
const SECRET_KEY: &str = "testbed-secret-key";
const BUCKET: &str = "testbed";

/// An S3 server on 127.0.0.1, by path (`/bucket/key`), which checks signatures.
///
/// It is as strict as AWS where a client could forget something: parts of an upload are at least
/// 5 MiB but the last, their list is in order, deletions of many name a checksum and no more than
/// a thousand keys, and an upload that was completed is gone. An ETag is not an MD5.
///
/// A body, or a long stretch of it, that is part of the [`pattern`] takes no memory, whatever its
/// size: tests of objects beyond 4 GiB upload that.
pub struct S3Server {
    store: Arc<Store>,
    port: Port,
}

impl S3Server {
    /// Starts a server with one empty bucket.
    pub fn start() -> Self {
        let store = Arc::new(Store::with_bucket(BUCKET));
        let mut builder = S3ServiceBuilder::new(Operations(Arc::clone(&store)));
        builder.set_auth(OneAccount);
        let service = builder.build();
        let port = Port::open(move |stream| {
            let service = service.clone();
            async move {
                // A client that breaks off ends its connection and nothing else.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        Self { store, port }
    }

    /// `http://` and the address.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The name of the bucket that is there from the start, of which the other methods speak.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The access key of the one account. Any region will do.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret key of the one account.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// Makes another bucket, for clients.
    pub fn create_bucket(&self, name: &str) {
        self.store.create_bucket(name);
    }

    /// The keys of all objects, in order.
    pub fn keys(&self) -> Vec<String> {
        self.store
            .read(BUCKET, |bucket| bucket.objects.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// An object, if it is there.
    pub fn object(&self, key: &str) -> Option<StoredObject> {
        self.store
            .read(BUCKET, |bucket| bucket.objects.get(key).cloned())?
    }

    /// Puts an object there, behind every client's back.
    pub fn put(&self, key: &str, object: StoredObject) {
        self.store.write(BUCKET, |bucket| {
            bucket.objects.insert(key.to_owned(), object);
        });
    }

    /// Takes an object away, behind every client's back.
    pub fn remove(&self, key: &str) -> Option<StoredObject> {
        self.store
            .write(BUCKET, |bucket| bucket.objects.remove(key))?
    }

    /// The multipart uploads that were neither completed nor aborted, by key and then by age.
    pub fn open_uploads(&self) -> Vec<OpenUpload> {
        self.store
            .read(BUCKET, |bucket| bucket.open_uploads())
            .unwrap_or_default()
    }

    /// Leaves an upload open, as a client that died does, and says which.
    pub fn leave_upload(&self, key: &str, begun: SystemTime) -> String {
        self.store
            .write(BUCKET, |bucket| {
                bucket.begin_upload(key, Default::default(), begun)
            })
            .unwrap_or_default()
    }

    /// Lists at most so many keys, uploads or parts at once, whatever the client asks for. It is
    /// 1000 from the start.
    pub fn set_page_max(&self, entries: usize) {
        self.store.set_page_max(entries);
    }

    /// Accepts smaller parts than 5 MiB in a multipart upload.
    pub fn set_part_min(&self, bytes: u64) {
        self.store.set_part_min(bytes);
    }

    /// How many requests were understood so far: of one operation by its name, such as
    /// `"ListObjectsV2"`. Those that were refused for their signature don't count.
    pub fn requests(&self, operation: &str) -> u64 {
        self.store.requests(operation)
    }

    /// How many requests were understood so far.
    pub fn requests_in_all(&self) -> u64 {
        self.store.requests_in_all()
    }
}

impl Deref for S3Server {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl fmt::Debug for S3Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Server")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

struct OneAccount;

#[async_trait::async_trait]
impl S3Auth for OneAccount {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == ACCESS_KEY {
            Ok(SecretKey::from(SECRET_KEY))
        } else {
            Err(s3_error!(
                InvalidAccessKeyId,
                "there is one account, and it isn't this"
            ))
        }
    }
}
