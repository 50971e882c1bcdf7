//! Where a database is replicated to.

use std::sync::Arc;

use replica::{Location, ReplicaClient, Survey, Timestamp};
use tokio::sync::{Mutex, MutexGuard};

use crate::contact::{reach, refused_by};
use crate::status::Failure;

/// The places of all replicas of one database.
#[derive(Debug, Default)]
pub(super) struct Places {
    locations: Vec<Location>,
    /// Kept by whoever restores the database.
    restoring: Mutex<()>,
}

impl Places {
    pub(super) fn new(locations: Vec<Location>) -> Places {
        Places {
            locations,
            restoring: Mutex::default(),
        }
    }

    pub(super) fn are_several(&self) -> bool {
        self.locations.len() > 1
    }

    /// Waits until nobody else restores the database.
    pub(super) async fn turn_to_restore(&self) -> MutexGuard<'_, ()> {
        self.restoring.lock().await
    }

    /// The place of the replica with the latest state, and its client, if any of them has one. Each
    /// must answer: whichever does not could be ahead of the others.
    pub(super) async fn newest(
        &self,
    ) -> Result<Option<(&Location, Arc<dyn ReplicaClient>)>, Failure> {
        let mut newest: Option<(Timestamp, &Location, Arc<dyn ReplicaClient>)> = None;
        for location in &self.locations {
            let asked = async {
                let client = replica::stack(reach(location).await?);
                let survey = Survey::new(&client).await;
                let survey = survey.map_err(|error| refused_by(location, &error))?;
                Ok((client, survey))
            };
            let (client, survey) = asked.await.map_err(|failure: Failure| {
                failure.hint(
                    "the database is missing, and this replica may have more of it than the \
                     others: leave it out to restore from one of those",
                )
            })?;
            let Some((_, latest)) = survey.restorable else {
                continue;
            };
            let is_newer = (newest.as_ref()).is_none_or(|(time, ..)| *time < latest.created_at);
            if is_newer {
                newest = Some((latest.created_at, location, client));
            }
        }
        Ok(newest.map(|(_, location, client)| (location, client)))
    }
}
