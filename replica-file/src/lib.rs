//! Replicas in a folder of a local file system.
