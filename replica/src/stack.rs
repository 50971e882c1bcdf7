//! The canonical order of layers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use replica_core::ReplicaClient;
use replica_layers::{Backoff, Retry, Timeout, TimeoutSettings};

/// `client` with the layers around it that every replica is opened with, in the canonical order.
///
/// From the store outwards that order is `Timeout`, `Limit`, `Throttle`, `Retry`, `Verify`: time
/// limits are next to the store, where no waiting of our own counts against the store, and only
/// what `Limit` and `Throttle` make a body wait counts against the limit on the body; a retry is
/// outside of them, so that an attempt that stalls is made again; and what is verified is what
/// came of all of that.
///
/// On by default are the two that cost nothing while all is well, and that a folder needs too,
/// because folders are mounted from other machines, which stall and come back: `Timeout` and
/// `Retry`. The others are for those who ask for them: `Verify` reads back whatever is written,
/// and `Limit` and `Throttle` need a number that only the user knows.
///
/// A write to a bucket or an SFTP server is limited by its client, which sees what moves on the
/// line: however long a file takes over a slow one, it is not given up while it gets on.
pub fn stack(client: Arc<dyn ReplicaClient>) -> Arc<dyn ReplicaClient> {
    Arc::new(Retry::new(limited(client), Backoff::default()))
}

/// `client` with the layers around it that a [`Replication`](crate::Replication) wants: those of
/// [`stack()`], but for the patience.
///
/// A replication tries again by itself for as long as it takes, and says so. A layer that waits out
/// an outage of minutes would keep it from saying so, and from being back at once. So `Retry` is for
/// what passes within two seconds or so, which nobody needs to hear of.
pub fn stack_to_replicate(client: Arc<dyn ReplicaClient>) -> Arc<dyn ReplicaClient> {
    Arc::new(Retry::new(limited(client), BRIEF))
}

/// `client` with limits on how long it may take.
fn limited(client: Arc<dyn ReplicaClient>) -> Timeout<Arc<dyn ReplicaClient>> {
    let sees_its_line = matches!(client.scheme(), "s3" | "sftp");
    let client = Timeout::new(client, TimeoutSettings::default());
    match sees_its_line {
        true => client.leaving_writes_to_the_client(),
        false => client,
    }
}

/// Three attempts within two seconds.
const BRIEF: Backoff = Backoff {
    attempts: NonZeroU32::new(3).expect("three is not zero"),
    pause_min: Duration::from_millis(100),
    pause_max: Duration::from_millis(500),
    total: Duration::from_secs(2),
    seed: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use replica_core::{
        Body, ByteRange, ByteStream, Capabilities, ErrorKind, FileId, FileInfo, FileStream, Level,
        Op, Result, Timestamp, Timestamps, Txid, async_trait,
    };
    use replica_mock::{MockClient, file};
    use tokio::time::{Instant, timeout};

    /// A mock that says it is a client of another store.
    #[derive(Debug)]
    struct Posing(&'static str, MockClient);

    #[async_trait]
    impl ReplicaClient for Posing {
        fn scheme(&self) -> &'static str {
            self.0
        }

        fn capabilities(&self) -> Capabilities {
            self.1.capabilities()
        }

        async fn list(&self, level: Level, from: Txid, times: Timestamps) -> Result<FileStream> {
            self.1.list(level, from, times).await
        }

        async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
            self.1.open(file, range).await
        }

        async fn write(&self, file: FileId, at: Timestamp, body: Body) -> Result<FileInfo> {
            self.1.write(file, at, body).await
        }

        async fn delete(&self, files: &[FileId]) -> Result<()> {
            self.1.delete(files).await
        }

        async fn delete_all(&self) -> Result<()> {
            self.1.delete_all().await
        }
    }

    /// K23: a file of some parts over a slow line takes longer than any wait of a folder's.
    #[tokio::test(start_paused = true)]
    async fn a_slow_write_is_cut_only_where_the_client_does_not_see_its_line() {
        for (scheme, attempts) in [("s3", 1), ("sftp", 1), ("file", 2)] {
            let mock = MockClient::new();
            let hours = Duration::from_secs(5 * 3600);
            mock.on(Op::Write).times(1).after_applying().delay(hours);
            let client = stack(Arc::new(Posing(scheme, mock.clone())));

            let body = Body::from(vec![7; 1 << 20]);
            let written = client.write(file(0, 1..=1), Timestamp::EPOCH, body).await;

            written.expect("it is written, at once or again");
            assert_eq!(mock.count(Op::Write), attempts, "{scheme}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stumbles_or_hangs_is_asked_again() {
        let mock = MockClient::new();
        mock.fail_next(Op::List, ErrorKind::Unavailable);
        mock.on(Op::List).skip(1).times(1).hang();

        let client = stack(Arc::new(mock.clone()));
        let list = client.list(Level::RAW, Txid::FIRST, Timestamps::Fast);
        let hour = Duration::from_secs(3600);
        let files = timeout(hour, list).await.expect("it ends").unwrap();

        assert_eq!(files.try_collect::<Vec<_>>().await.unwrap(), []);
        assert_eq!(mock.count(Op::List), 3);
    }

    #[tokio::test]
    async fn what_will_not_pass_is_not_asked_again() {
        let mock = MockClient::new();
        mock.fail_next(Op::List, ErrorKind::PermissionDenied);

        let client = stack(Arc::new(mock.clone()));
        let error = client
            .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await
            .err();

        assert_eq!(
            error.map(|error| error.kind()),
            Some(ErrorKind::PermissionDenied)
        );
        assert_eq!(mock.count(Op::List), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replication_hears_of_an_outage_soon_and_of_a_stumble_not_at_all() {
        let mock = MockClient::new();
        let client = stack_to_replicate(Arc::new(mock.clone()));
        let list = || client.list(Level::RAW, Txid::FIRST, Timestamps::Fast);

        mock.fail_next(Op::List, ErrorKind::Unavailable);
        let stumbled = list().await.map(drop);
        mock.on(Op::List).times(100).fail(ErrorKind::Unavailable);
        let begun = Instant::now();
        let away = list().await.err();

        assert!(stumbled.is_ok());
        assert_eq!(away.map(|error| error.kind()), Some(ErrorKind::Unavailable));
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
