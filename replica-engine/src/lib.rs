//! Brings SQLite databases back from the LTX files of a replica.
