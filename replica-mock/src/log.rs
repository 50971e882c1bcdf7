//! What was asked of the mock, and how it went.

use replica_core::{ByteRange, ErrorKind, FileId, Level, Op, Timestamp, Timestamps, Txid};

/// One call that a client has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub request: Request,
    /// How it went. An open or a list goes on until its stream has ended or is dropped.
    pub outcome: Outcome,
    /// How many bytes of a file it has moved so far.
    pub bytes: u64,
    /// How many files it has listed so far.
    pub items: u64,
}

impl Call {
    /// Which operation it was.
    pub fn op(&self) -> Op {
        self.request.op()
    }
}

/// What a call asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the trait's methods"
)]
pub enum Request {
    /// [`ReplicaClient::list`](replica_core::ReplicaClient::list).
    List {
        level: Level,
        from: Txid,
        timestamps: Timestamps,
    },
    /// [`ReplicaClient::open`](replica_core::ReplicaClient::open).
    Open { file: FileId, range: ByteRange },
    /// [`ReplicaClient::write`](replica_core::ReplicaClient::write).
    Write { file: FileId, created_at: Timestamp },
    /// [`ReplicaClient::delete`](replica_core::ReplicaClient::delete).
    Delete { files: Vec<FileId> },
    /// [`ReplicaClient::delete_all`](replica_core::ReplicaClient::delete_all).
    DeleteAll,
}

impl Request {
    /// Which operation it is.
    pub fn op(&self) -> Op {
        match self {
            Request::List { .. } => Op::List,
            Request::Open { .. } => Op::Open,
            Request::Write { .. } => Op::Write,
            Request::Delete { .. } => Op::Delete,
            Request::DeleteAll => Op::DeleteAll,
        }
    }

    /// The files that it names.
    pub fn files(&self) -> &[FileId] {
        match self {
            Request::Open { file, .. } | Request::Write { file, .. } => std::slice::from_ref(file),
            Request::Delete { files } => files,
            Request::List { .. } | Request::DeleteAll => &[],
        }
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It has not ended yet.
    Running,
    /// It ended well; a stream, with its last item.
    Done,
    /// It ended in an error of this kind.
    Failed(ErrorKind),
    /// Its caller dropped the call, or the stream before its end.
    Dropped,
}
