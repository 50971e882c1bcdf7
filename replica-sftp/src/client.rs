//! The client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, Op,
    ReplicaClient, Result, Timestamp, Timestamps, Txid,
};

use crate::config::SftpConfig;
use crate::list::Seen;
use crate::pool::Pool;
use crate::root::Root;
use crate::{delete, list, read, write};

const SCHEME: &str = "sftp";

/// The protocol's times are whole seconds.
const RESOLUTION: Duration = Duration::from_secs(1);

/// A client that keeps a replica on an SFTP server. The [crate's page](crate) says what it
/// promises beyond the contract, and what it costs.
///
/// A clone is the same client: it shares the connections. They end with the last clone, and with
/// the last stream that was opened.
///
/// Calls need a Tokio runtime with its clock, and panic without one.
#[derive(Clone)]
pub struct SftpClient {
    root: Root,
    pool: Arc<Pool>,
    seen: Arc<Seen>,
    atomic_replace: bool,
}

impl SftpClient {
    /// A client of the replica that `config` names. Costs no I/O: nothing is connected to before
    /// the first call.
    ///
    /// # Errors
    ///
    /// [`Invalid`](replica_core::ErrorKind::Invalid) for a root, or a host or user, that nothing
    /// can have.
    pub fn new(config: SftpConfig) -> Result<SftpClient> {
        let root = Root::new(&config.root)?;
        config.check()?;
        Ok(SftpClient {
            root,
            atomic_replace: config.atomic_replace,
            pool: Arc::new(Pool::new(config)),
            seen: Arc::default(),
        })
    }

    /// As [`new`](SftpClient::new), with a first connection, and with
    /// [`atomic_replace`](SftpConfig::atomic_replace) as the server has it: the way to a client
    /// whose capabilities are those of the server, where that is not known beforehand.
    ///
    /// # Errors
    ///
    /// What keeps the client from connecting and logging in, too.
    pub async fn connect(config: SftpConfig) -> Result<SftpClient> {
        let mut client = SftpClient::new(config)?;
        client.atomic_replace = client.pool.call().await?.extensions.posix_rename;
        Ok(client)
    }
}

#[async_trait]
impl ReplicaClient for SftpClient {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::FULL
            .with_timestamp_resolution(Some(RESOLUTION))
            .with_atomic_replace(self.atomic_replace)
    }

    async fn list(&self, level: Level, from: Txid, _timestamps: Timestamps) -> Result<FileStream> {
        let listing = async {
            let call = self.pool.call().await?;
            list::list(&call, &self.root, &self.seen, level, from).await
        };
        listing
            .await
            .map_err(|error| error.during(Op::List, SCHEME))
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let opening = async {
            let call = self.pool.call().await?;
            read::open(call, &self.root, file, range).await
        };
        let fault = move |error: replica_core::Error| error.of(file).during(Op::Open, SCHEME);
        let stream = opening.await.map_err(fault)?;
        Ok(stream.map_err(fault).boxed())
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let writing = async {
            let call = self.pool.call().await?;
            write::write(
                call,
                &self.root,
                file,
                created_at,
                body,
                self.atomic_replace,
            )
            .await
        };
        writing
            .await
            .map_err(|error| error.of(file).during(Op::Write, SCHEME))
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let deleting = async {
            let call = self.pool.call().await?;
            delete::delete(&call, &self.root, files.to_vec()).await
        };
        deleting
            .await
            .map_err(|error| error.during(Op::Delete, SCHEME))
    }

    async fn delete_all(&self) -> Result<()> {
        let deleting = async {
            let call = self.pool.call().await?;
            delete::delete_all(&call, &self.root).await
        };
        deleting
            .await
            .map_err(|error| error.during(Op::DeleteAll, SCHEME))
    }
}

/// Says where, and never with what.
impl fmt::Debug for SftpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpClient")
            .field("config", &self.pool.config)
            .field("atomic_replace", &self.atomic_replace)
            .finish()
    }
}
