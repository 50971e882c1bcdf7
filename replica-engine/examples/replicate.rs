//! Replicates a database to a folder, once for each line of the standard input, and says each
//! time what it did.
//!
//! ```text
//! replicate DATABASE FOLDER
//! ```

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use replica_core::Timestamp;
use replica_engine::{ReplicateOptions, Replicator};
use replica_file::FileClient;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let [database, folder]: [String; 2] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| "usage: replicate DATABASE FOLDER")?;
    let clock = || Timestamp::from_system_time(SystemTime::now()).unwrap_or(Timestamp::EPOCH);
    let options = ReplicateOptions::new(database, clock);

    let mut replicator = Replicator::open(Arc::new(FileClient::new(folder)), options).await?;
    for line in std::io::stdin().lines() {
        line?;
        let synced = replicator.sync().await?;
        let files = synced.files.len();
        match synced.snapshot {
            Some(reason) => println!("{} {files} snapshot: {reason}", synced.txid),
            None => println!("{} {files}", synced.txid),
        }
    }
    Ok(())
}
