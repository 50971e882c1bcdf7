//! Replicates a database to a folder, once for each line of the standard input, and says each
//! time what it did. Where the line is `compact` or `snapshot`, the replica's files are put together
//! after that.
//!
//! ```text
//! replicate DATABASE FOLDER
//! ```

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use replica_core::{ReplicaClient, Timestamp};
use replica_engine::{Levels, ReplicateOptions, Replicator, UpkeepOptions, compact, snapshot};
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
    let mut at_once = UpkeepOptions::default();
    at_once.levels = Levels::new(vec![Duration::ZERO; 3]).ok_or("there are eight levels")?;
    let client: Arc<dyn ReplicaClient> = Arc::new(FileClient::new(folder));

    let mut replicator = Replicator::open(Arc::clone(&client), options).await?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let synced = replicator.sync().await?;
        let files = synced.files.len();
        match synced.snapshot {
            Some(reason) => println!("{} {files} snapshot: {reason}", synced.txid),
            None => println!("{} {files}", synced.txid),
        }
        match line.as_str() {
            "compact" => {
                compact(&client, &at_once, clock()).await?;
            }
            "snapshot" => {
                snapshot(&client).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
