//! Fills a small file system through a replica, and shows what that looks like:
//!
//! ```text
//! mount -t tmpfs -o size=4m none FOLDER && cargo run -p replica-file --example full_disk -- FOLDER
//! ```
//!
//! Fails unless the full disk is told as such, the file that was there before is still whole, no
//! temporary file is left, and the client works again when there is room.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io;
use std::path::Path;

use replica_core::{
    Body, FileId, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps, Txid, TxidRange,
};
use replica_file::FileClient;

/// More than this is no small file system, and left alone.
const SIZE_MAX: usize = 64 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("say which folder")?;
    let root = Path::new(&folder).join("db");
    let client = FileClient::new(&root);
    let file = FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::FIRST),
    };
    let small = vec![1; 100_000];
    let write = async |content: Vec<u8>| {
        let body = Body::from(content);
        client.write(file, Timestamp::EPOCH, body).await
    };

    write(small.clone()).await?;
    let mut size = 1 << 20;
    let error = loop {
        match write(vec![2; size]).await {
            Ok(_) if size < SIZE_MAX => write(small.clone()).await?,
            Ok(_) => return Err("the file system is not small".into()),
            Err(error) => break error,
        };
        size *= 2;
    };

    println!("{error}");
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    if cause.map(io::Error::kind) != Some(io::ErrorKind::StorageFull) {
        return Err("the full disk is not told".into());
    }
    if client.read(file, (..).into()).await? != small {
        return Err("the old file is not what it was".into());
    }
    let listed = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Exact);
    let listed = listed.await?.len();
    let entries = std::fs::read_dir(root.join("ltx/0"))?.count();
    if (listed, entries) != (1, 1) {
        return Err(format!("{listed} files are listed, and {entries} are there").into());
    }
    write(small).await?;
    client.delete_all().await?;
    println!("and nothing was lost or left");
    Ok(())
}
