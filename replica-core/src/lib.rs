//! The contract between a replication engine and the place its LTX files are kept.
