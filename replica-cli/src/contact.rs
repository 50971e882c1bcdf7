//! The first word with a store.

use std::io::{self, Write};
use std::sync::{Arc, Once};
use std::time::Duration;

use futures::TryStreamExt;
use replica::{Error, ErrorKind, Level, Location, ReplicaClient, Timestamps, Txid};
use tokio::time::{sleep, timeout};

use crate::status::{Failure, Status};

/// How long a store may take to answer for the first time.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// The pauses between the attempts to get that answer: what is refused at once four times, as a
/// connection is where nobody listens, is told after seconds.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// A client of the store at `location`, without a layer, that has answered once.
///
/// The layers of a replica wait out an outage of minutes, which is right in the middle of a
/// restore, and wrong for the person who mistyped a host. So the first question has limits of its
/// own, and whatever is wrong with the configuration shows itself here.
pub(crate) async fn reach(location: &Location) -> Result<Arc<dyn ReplicaClient>, Failure> {
    warn_if_unverified(location);
    let client = location
        .client()
        .map_err(|error| could_not_open(location).because_of(Some(&error)))?;
    match first_answer(&client).await {
        Ok(()) => Ok(client),
        Err(error) => Err(refused_by(location, &error)),
    }
}

/// The failure for a place that the command can't work at.
pub(crate) fn could_not_open(location: &Location) -> Failure {
    Failure::new(Status::Usage, format!("could not open {location}"))
}

/// The same for one whose store has met `error`, which may pass.
pub(crate) fn refused_by(location: &Location, error: &Error) -> Failure {
    let failure = could_not_open(location).because_of(Some(error));
    match error.is_transient() {
        true => failure.that_may_pass(),
        false => failure,
    }
}

/// Says on stderr, once, that any server would do.
fn warn_if_unverified(location: &Location) {
    static WARNED: Once = Once::new();
    if location.is_unverified() {
        WARNED.call_once(|| {
            // There is nobody to tell that stderr is closed.
            let _ = writeln!(
                io::stderr(),
                "warning: skip-verify: whoever is in between can read and change everything"
            );
        });
    }
}

async fn first_answer(client: &dyn ReplicaClient) -> Result<(), Error> {
    let mut last = None;
    let asking = async {
        for pause in PAUSES {
            match ask(client).await {
                Err(error) if error.is_transient() => last = Some(error),
                answer => return answer,
            }
            sleep(pause).await;
        }
        ask(client).await
    };
    match timeout(FIRST_ANSWER, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(last.unwrap_or_else(|| {
            let message = format!("the store gave no answer within {FIRST_ANSWER:?}");
            Error::new(ErrorKind::Unavailable, message)
        })),
    }
}

/// Asks for what costs any store little: the end of the level that has the fewest files.
async fn ask(client: &dyn ReplicaClient) -> Result<(), Error> {
    let mut files = client
        .list(Level::SNAPSHOT, Txid::MAX, Timestamps::Fast)
        .await?;
    files.try_next().await?;
    Ok(())
}
