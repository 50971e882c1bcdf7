//! SQLite replication for applications: open a replica by its URL, restore databases from it.
