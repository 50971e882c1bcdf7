//! Replicas on an SFTP server.
