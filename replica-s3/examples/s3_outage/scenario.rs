//! A server is killed in the middle of each operation, and comes back.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ErrorKind, FileId, Level, ReplicaClient, ReplicaClientExt, Result, Timestamp, Timestamps,
    Txid, TxidRange, async_trait,
};
use replica_s3::S3Client;
use testbed::{Direction, Fault, Proxy};

/// The size of the parts of the client's uploads.
pub(crate) const PART_SIZE: u64 = 5 << 20;
/// The sizes of files that are written in one request, and in three parts.
const SMALL: usize = 1 << 20;
const LARGE: usize = 11 << 20;
const TIME: Timestamp = Timestamp::from_millis(1_795_247_087_120);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that can be killed and started again.
#[async_trait]
pub(crate) trait Server: Send {
    /// Ends it at once, wherever it is.
    async fn kill(&mut self);

    /// Starts it again, and waits until it answers.
    async fn start(&mut self);

    /// How many uploads are neither completed nor aborted.
    async fn open_uploads(&mut self) -> usize;
}

/// What the client is doing when the server dies.
#[derive(Clone, Copy, Debug)]
enum Doing {
    List,
    Open,
    WriteSmall,
    WriteLarge,
    Delete,
    DeleteAll,
}

/// When the server dies: once so many bytes of one connection have passed.
type Moment = (Direction, u64);

/// The first bytes of a request, and of its answer; the middle of what is large.
const MOMENTS: &[(Doing, &[Moment])] = &[
    (Doing::List, &[(Direction::Up, 50), (Direction::Down, 50)]),
    (
        Doing::Open,
        &[(Direction::Up, 50), (Direction::Down, 3 << 20)],
    ),
    (
        Doing::WriteSmall,
        &[(Direction::Up, 500_000), (Direction::Down, 1)],
    ),
    (
        Doing::WriteLarge,
        &[(Direction::Up, 3 << 20), (Direction::Down, 1)],
    ),
    (Doing::Delete, &[(Direction::Up, 50), (Direction::Down, 1)]),
    (
        Doing::DeleteAll,
        &[(Direction::Up, 50), (Direction::Down, 1)],
    ),
];

/// Kills `server`, to which `client` goes through `proxy`, in the middle of each operation, and
/// panics unless all is as if that had not begun, or had ended, once the server is back.
pub(crate) async fn run(client: &S3Client, proxy: &Proxy, server: &mut impl Server) {
    for (doing, moments) in MOMENTS {
        for moment in *moments {
            let what = format!("{doing:?} at {moment:?}");
            client
                .write(raw(1), TIME, content(LARGE))
                .await
                .expect(&what);
            client
                .write(raw(2), TIME, content(SMALL))
                .await
                .expect(&what);

            interrupt(client, proxy, server, *doing, *moment, &what).await;

            // The very next call, and nothing that tries again.
            let listed = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Exact);
            for info in listed.await.expect(&what) {
                let size = usize::try_from(info.size).expect("no file is large");
                assert!(matches!(size, SMALL | LARGE), "{what}: {info:?}");
                assert_eq!(info.created_at, TIME, "{what}");
                let read = client.read(info.id, (..).into()).await.expect(&what);
                assert!(read == bytes(size), "{what}: {} is not whole", info.id);
            }
            // Where the answer that names an upload is lost, only a deletion can find it.
            let is_lost = matches!((doing, moment), (Doing::WriteLarge, (Direction::Down, _)));
            if !is_lost {
                no_upload_is_open(server, &what).await;
            }
            client.delete(&[raw(1), raw(9)]).await.expect(&what);
            client.delete_all().await.expect(&what);
            no_upload_is_open(server, &what).await;
            let left = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Fast);
            assert!(left.await.expect(&what).is_empty(), "{what}");
        }
    }
}

/// Does something that the server does not live to see the end of, and has it come back.
async fn interrupt(
    client: &S3Client,
    proxy: &Proxy,
    server: &mut impl Server,
    doing: Doing,
    (direction, after): Moment,
    what: &str,
) {
    let passed = proxy.bytes(direction);
    proxy.set(Fault::Stall { direction, after });
    let client = client.clone();
    let call = tokio::spawn(async move { act(&client, doing).await });
    until(what, || proxy.bytes(direction) >= passed + after).await;

    assert!(!call.is_finished(), "{what}: it was over before");
    server.kill().await;
    proxy.clear();
    let outcome = tokio::time::timeout(PATIENCE, call).await;
    let outcome = outcome.expect(what).expect("the call does not panic");
    if let Err(error) = outcome {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
    }
    // A server that dies takes its connections along.
    until(what, || proxy.live_connections() == 0).await;
    server.start().await;
}

async fn act(client: &S3Client, doing: Doing) -> Result<()> {
    match doing {
        Doing::List => client
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
            .await
            .map(drop),
        Doing::Open => {
            let bytes = client.open(raw(1), (..).into()).await?;
            bytes.try_for_each(async |_| Ok(())).await
        }
        Doing::WriteSmall => client.write(raw(9), TIME, content(SMALL)).await.map(drop),
        Doing::WriteLarge => client.write(raw(9), TIME, content(LARGE)).await.map(drop),
        Doing::Delete => client.delete(&[raw(1), raw(2)]).await,
        Doing::DeleteAll => client.delete_all().await,
    }
}

/// An upload whose abortion the server missed is aborted when it is back.
async fn no_upload_is_open(server: &mut impl Server, what: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let open = server.open_uploads().await;
        if open == 0 {
            return;
        }
        let is_late = tokio::time::Instant::now() > deadline;
        assert!(!is_late, "{what}: {open} uploads stay open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let reached = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("{what}: it does not get that far"));
}

fn raw(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("a scenario's txid is not zero")),
    }
}

/// A body whose size nobody knows before.
fn content(size: usize) -> Body {
    let chunks = bytes(size)
        .chunks(1 << 18)
        .map(Vec::from)
        .collect::<Vec<_>>();
    Body::once(
        None,
        stream::iter(chunks).map(|chunk| Ok(chunk.into())).boxed(),
    )
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}
