//! The canonical order of layers.

use std::sync::Arc;

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
pub fn stack(client: Arc<dyn ReplicaClient>) -> Arc<dyn ReplicaClient> {
    let client = Timeout::new(client, TimeoutSettings::default());
    let client = Retry::new(client, Backoff::default());
    Arc::new(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use replica_core::{ErrorKind, Level, Op, Timestamps, Txid};
    use replica_mock::MockClient;
    use std::time::Duration;
    use tokio::time::timeout;

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
}
