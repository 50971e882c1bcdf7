//! An application that brings its database back before it starts, where it isn't there.
//!
//! ```sh
//! cargo run -p replica --example restore -- app.db file:///var/backups/app
//! ```

#![allow(clippy::print_stdout, reason = "an application prints")]

use std::error::Error;
use std::path::Path;

use replica::{Integrity, Location, RestoreOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(database), Some(url)) = (args.next(), args.next()) else {
        return Err("usage: restore DATABASE REPLICA".into());
    };

    restore_if_missing(database.as_ref(), &url).await?;

    // Here the application opens its database, and goes on.
    println!("{database} is there");
    Ok(())
}

/// An application's first start finds neither database nor replica, and that is fine: it makes a
/// new one. A replica that can't be restored is not: starting empty would hide the loss.
async fn restore_if_missing(database: &Path, url: &str) -> Result<(), Box<dyn Error>> {
    let location: Location = url.parse()?;
    if database.exists() || location.missing().is_some() {
        return Ok(());
    }
    let mut options = RestoreOptions::new(database);
    options.integrity = Integrity::Quick;

    let restored = replica::restore(location.open()?, &options, |_| ()).await?;

    println!(
        "restored to transaction {} of {}",
        restored.txid, restored.created_at
    );
    Ok(())
}
