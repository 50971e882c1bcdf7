//! What a configuration says of the databases that are to be replicated.

use std::time::Duration;

use jiff::SignedDuration;

use super::{Config, ConfigError, Fault, absolute, filled, location, replica, yaml};
use crate::{Location, ReplicateOptions, now};

/// A database of a configuration, and how it is to be replicated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Replicated {
    /// The database and its settings: `sync-interval` is the window, `monitor-interval` says how
    /// often the log is looked at, and `checkpoint-interval` and `min-checkpoint-page-count` when it
    /// is checkpointed. There is no upkeep, so files are only added: what the configuration says of
    /// levels, snapshots and retention is not read.
    pub options: ReplicateOptions,
    /// Where its replica is kept.
    pub location: Location,
    /// Whether the database is to be restored first where it is missing:
    /// `restore-if-db-not-exists`.
    pub restore_if_missing: bool,
}

impl Config {
    /// All databases, each with how it is to be replicated.
    ///
    /// # Errors
    ///
    /// A database whose settings make no sense, two that are the same, and two with the same
    /// replica. None at all is an error too.
    pub fn replicated(&self) -> Result<Vec<Replicated>, ConfigError> {
        let mut all: Vec<Replicated> = Vec::new();
        for entry in self.entries() {
            let database = filled(&entry.path).map(absolute);
            let found = replicated(entry, &self.defaults)
                .and_then(|found| beside(&all, found))
                .map_err(|fault| self.error_about(database, fault))?;
            all.push(found);
        }
        match all.is_empty() {
            true => Err(self.error_about(None, Fault::NoDatabase)),
            false => Ok(all),
        }
    }

    /// The command that is to be run while the databases are replicated: `exec`.
    pub fn exec(&self) -> Option<&str> {
        filled(&self.document.exec)
    }

    /// How long the last sync may take: `shutdown-sync-timeout`.
    ///
    /// # Errors
    ///
    /// A value that is no duration.
    pub fn shutdown_sync_timeout(&self) -> Result<Option<Duration>, ConfigError> {
        duration(
            "shutdown-sync-timeout",
            &self.document.shutdown_sync_timeout,
        )
        .map_err(|fault| self.error_about(None, fault))
    }
}

fn replicated(entry: &yaml::Database, defaults: &yaml::Replica) -> Result<Replicated, Fault> {
    if filled(&entry.dir).is_some() {
        return Err(Fault::Folder);
    }
    let path = filled(&entry.path).map(absolute).ok_or(Fault::Unnamed)?;
    let replica = replica(entry, defaults)?;
    let mut options = ReplicateOptions::new(path, now);
    // What the configuration says of that is not read, and may be to keep files for longer.
    options.upkeep = None;
    if let Some(window) = interval("sync-interval", &replica.sync_interval)? {
        options.window = window;
    }
    if let Some(poll) = interval("monitor-interval", &entry.monitor_interval)? {
        options.poll = poll;
    }
    if let Some(interval) = interval("checkpoint-interval", &entry.checkpoint_interval)? {
        options.checkpoint_interval = interval;
    }
    if let Some(pages) = filled(&entry.min_checkpoint_page_count) {
        let pages = pages.parse().ok().filter(|pages| *pages > 0);
        options.checkpoint_pages = pages.ok_or(Fault::Value {
            name: "min-checkpoint-page-count",
            form: "a number of pages, such as 1000",
        })?;
    }
    let restore_if_missing = match filled(&entry.restore_if_db_not_exists) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(Fault::Value {
                name: "restore-if-db-not-exists",
                form: "true or false",
            });
        }
    };
    Ok(Replicated {
        options,
        location: location(&replica)?,
        restore_if_missing,
    })
}

/// `found`, where nobody of the others is in its way.
fn beside(others: &[Replicated], found: Replicated) -> Result<Replicated, Fault> {
    for other in others {
        if other.options.database == found.options.database {
            return Err(Fault::Repeated);
        }
        if other.location == found.location {
            return Err(Fault::SameReplica(other.options.database.clone()));
        }
    }
    Ok(found)
}

/// A duration that is not zero.
fn interval(name: &'static str, text: &Option<String>) -> Result<Option<Duration>, Fault> {
    match duration(name, text)? {
        Some(Duration::ZERO) => Err(not_a_duration(name)),
        duration => Ok(duration),
    }
}

/// A duration as Go writes it.
fn duration(name: &'static str, text: &Option<String>) -> Result<Option<Duration>, Fault> {
    let Some(text) = filled(text) else {
        return Ok(None);
    };
    let duration = text.parse::<SignedDuration>().ok();
    match duration.and_then(|duration| Duration::try_from(duration).ok()) {
        Some(duration) => Ok(Some(duration)),
        None => Err(not_a_duration(name)),
    }
}

fn not_a_duration(name: &'static str) -> Fault {
    Fault::Value {
        name,
        form: "a time, such as 500ms, 1s or 5m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Expand;

    fn config(text: &str) -> Config {
        Config::parse("replica.yml".into(), text, Expand::Nothing).expect(text)
    }

    #[track_caller]
    fn check_refused(text: &str, message: &str) {
        let error = config(text).replicated().expect_err(text);

        assert_eq!(error.to_string(), format!("replica.yml: {message}"));
    }

    #[test]
    fn each_database_has_its_settings_and_its_replica() {
        let config = config(
            "sync-interval: 10s\nexec: app -v\nshutdown-sync-timeout: 1m30s\ndbs:\n\
             - path: /a.db\n  replica: {path: /a, sync-interval: 500ms}\n  \
               restore-if-db-not-exists: true\n\
             - path: /b.db\n  replicas: [{url: 'file:///b'}]\n  monitor-interval: 2s\n  \
               checkpoint-interval: 1h\n  min-checkpoint-page-count: 20\n",
        );

        let [a, b] = &config.replicated().expect("it is right")[..] else {
            panic!("there are two");
        };

        let (seconds, options) = (Duration::from_secs, ReplicateOptions::new("/b.db", now));
        assert_eq!(a.options.database.to_str(), Some("/a.db"));
        assert_eq!(a.options.window, Duration::from_millis(500));
        assert_eq!(a.options.poll, options.poll);
        assert_eq!(a.location, Location::Folder("/a".into()));
        assert_eq!((a.restore_if_missing, b.restore_if_missing), (true, false));
        assert_eq!(
            (b.options.window, b.options.poll),
            (seconds(10), seconds(2))
        );
        assert_eq!(b.options.checkpoint_interval, seconds(3600));
        assert_eq!(b.options.checkpoint_pages, 20);
        assert_eq!((&a.options.upkeep, &b.options.upkeep), (&None, &None));
        assert_eq!(config.exec(), Some("app -v"));
        assert_eq!(
            config.shutdown_sync_timeout().expect("a time"),
            Some(seconds(90))
        );
    }

    #[test]
    fn what_can_not_be_replicated_is_told() {
        check_refused("{}", "the configuration has no databases");
        check_refused("dbs: [{replica: {path: /a}}]", "a database has no path");
        check_refused("dbs: [{path: /db}]", "/db: the database has no replica");
        check_refused(
            "dbs: [{dir: /dbs, pattern: '*.db', replica: {path: /a}}]",
            "a folder of databases (dir) can't be replicated yet: name each database by its path",
        );
        check_refused(
            "dbs: [{path: /db, replica: {path: /a}}, {path: /x/../db, replica: {path: /b}}]",
            "/db: the database is there twice: leave one",
        );
        check_refused(
            "dbs: [{path: /a.db, replica: {path: /a}}, {path: /b.db, replica: {url: 'file:///a'}}]",
            "/b.db: its replica is that of /a.db too: each needs a place of its own",
        );
    }

    #[test]
    fn a_setting_of_another_form_is_told() {
        for (setting, form) in [
            ("monitor-interval: 0s", "a time, such as 500ms, 1s or 5m"),
            ("monitor-interval: 1", "a time, such as 500ms, 1s or 5m"),
            (
                "checkpoint-interval: -1s",
                "a time, such as 500ms, 1s or 5m",
            ),
            (
                "min-checkpoint-page-count: 0",
                "a number of pages, such as 1000",
            ),
            ("restore-if-db-not-exists: maybe", "true or false"),
        ] {
            let name = setting.split(':').next().unwrap_or_default();
            check_refused(
                &format!("dbs: [{{path: /db, replica: {{path: /a}}, {setting}}}]"),
                &format!("/db: the value of {name} is not what it should be: {form}"),
            );
        }
    }
}
