//! What a configuration says of the databases that are to be replicated.

use std::time::Duration;

use jiff::SignedDuration;

use super::yaml::Setting;
use super::{Config, ConfigError, Fault, PassedOver, absolute, filled, location, replicas, yaml};
use crate::{Levels, Location, ReplicateOptions, UpkeepOptions, now};

/// A database of a configuration, and how it is to be replicated to one place.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Replicated {
    /// The database and its settings: `sync-interval` is the window, which is otherwise the
    /// [location's](Location::window), `monitor-interval` says how
    /// often the log is looked at, and `checkpoint-interval` and `min-checkpoint-page-count` when it
    /// is checkpointed. `levels`, `snapshot`, `l0-retention` and `retention` say how the replica is
    /// kept: what neither retention needs any more goes [five minutes](crate::Retention::grace)
    /// later, so that a restore that was planned before finds its files. A database's own `snapshot`
    /// holds for it alone, over the one at the top: Litestream has one for all of them.
    pub options: ReplicateOptions,
    /// Where its replica is kept.
    pub location: Location,
    /// Whether the database is to be restored first where it is missing:
    /// `restore-if-db-not-exists`.
    pub restore_if_missing: bool,
}

impl Config {
    /// All databases, each with how it is to be replicated: as often as it has replicas, one after the
    /// other.
    ///
    /// # Errors
    ///
    /// A key that nobody knows, or that belongs elsewhere. A database whose settings make no sense,
    /// two that are the same, and two with the same replica. None at all is an error too.
    pub fn replicated(&self) -> Result<Vec<Replicated>, ConfigError> {
        let about_all = |fault| self.error_about(None, fault);
        self.keys.fault().map_err(about_all)?;
        let common = common(&self.document).map_err(about_all)?;
        let mut all: Vec<Replicated> = Vec::new();
        for entry in self.entries() {
            let database = filled(&entry.path).map(absolute);
            let found = replicated(entry, &self.defaults, &common)
                .and_then(|found| beside(&all, found))
                .map_err(|fault| self.error_about(database, fault))?;
            all.extend(found);
        }
        match all.is_empty() {
            true => Err(self.error_about(None, Fault::NoDatabase)),
            false => Ok(all),
        }
    }

    /// Litestream's settings that nothing comes of here, in their order.
    pub fn passed_over(&self) -> impl Iterator<Item = &PassedOver> {
        self.keys.passed_over.iter()
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

/// The upkeep of those databases that say nothing else.
fn common(document: &yaml::Document) -> Result<UpkeepOptions, Fault> {
    let mut upkeep = UpkeepOptions::default();
    if let Some(levels) = &document.levels {
        let name = "levels.interval";
        let intervals = levels.iter().map(|level| {
            let given = interval(name, &level.interval)?;
            given.ok_or_else(|| not_a_duration(name, None))
        });
        let intervals = intervals.collect::<Result<_, _>>()?;
        upkeep.levels = Levels::new(intervals).ok_or(Fault::Value {
            name: "levels",
            line: None,
            form: "eight levels at most",
        })?;
    }
    // How often that is looked at is not ours to choose: files go as soon as they may.
    interval(
        "l0-retention-check-interval",
        &document.l0_retention_check_interval,
    )?;
    if let (Some(raw), Some(retention)) = (
        interval("l0-retention", &document.l0_retention)?,
        &mut upkeep.retention,
    ) {
        retention.raw = raw;
    }
    let mut upkeep = upkeep_of(document.snapshot.as_ref(), &upkeep)?;
    let retention = document.retention.as_ref();
    if retention
        .map(|retention| boolean("retention.enabled", &retention.enabled))
        .transpose()?
        .flatten()
        == Some(false)
    {
        upkeep.retention = None;
    }
    Ok(upkeep)
}

/// The upkeep of which `snapshot` says a part, and `common` the rest.
fn upkeep_of(
    snapshot: Option<&yaml::Snapshot>,
    common: &UpkeepOptions,
) -> Result<UpkeepOptions, Fault> {
    let mut upkeep = common.clone();
    let Some(snapshot) = snapshot else {
        return Ok(upkeep);
    };
    if let Some(interval) = interval("snapshot.interval", &snapshot.interval)? {
        upkeep.snapshot_interval = interval;
    }
    let states = interval("snapshot.retention", &snapshot.retention)?;
    if let (Some(states), Some(retention)) = (states, &mut upkeep.retention) {
        retention.states = states;
    }
    Ok(upkeep)
}

fn replicated(
    entry: &yaml::Database,
    defaults: &yaml::Replica,
    common: &UpkeepOptions,
) -> Result<Vec<Replicated>, Fault> {
    if filled(&entry.dir).is_some() {
        return Err(Fault::Folder);
    }
    let path = filled(&entry.path).map(absolute).ok_or(Fault::Unnamed)?;
    let replicas = replicas(entry, defaults)?;
    let mut options = ReplicateOptions::new(path, now);
    options.upkeep = Some(upkeep_of(entry.snapshot.as_ref(), common)?);
    if let Some(poll) = interval("monitor-interval", &entry.monitor_interval)? {
        options.poll = poll;
    }
    if let Some(interval) = interval("checkpoint-interval", &entry.checkpoint_interval)? {
        options.checkpoint_interval = interval;
    }
    if let Some(setting) = given(&entry.min_checkpoint_page_count) {
        let pages = setting.text.parse().ok().filter(|pages| *pages > 0);
        options.checkpoint_pages = pages.ok_or(Fault::Value {
            name: "min-checkpoint-page-count",
            line: Some(setting.line),
            form: "a number of pages, such as 1000",
        })?;
    }
    let restore_if_missing = boolean("restore-if-db-not-exists", &entry.restore_if_db_not_exists)?;
    let each = replicas.iter().map(|replica| {
        let location = location(replica)?;
        let mut options = options.clone();
        let window = interval("sync-interval", &replica.sync_interval)?;
        options.window = window.unwrap_or_else(|| location.window());
        Ok(Replicated {
            options,
            location,
            restore_if_missing: restore_if_missing.unwrap_or(false),
        })
    });
    each.collect()
}

fn boolean(name: &'static str, setting: &Option<Setting>) -> Result<Option<bool>, Fault> {
    let Some(setting) = given(setting) else {
        return Ok(None);
    };
    match setting.text.as_str() {
        "false" => Ok(Some(false)),
        "true" => Ok(Some(true)),
        _ => Err(Fault::Value {
            name,
            line: Some(setting.line),
            form: "true or false",
        }),
    }
}

/// `found`, where nobody of the others is in its way.
fn beside(others: &[Replicated], found: Vec<Replicated>) -> Result<Vec<Replicated>, Fault> {
    for (index, one) in found.iter().enumerate() {
        for other in others {
            if other.options.database == one.options.database {
                return Err(Fault::Repeated);
            }
            if other.location.is_same_place(&one.location) {
                return Err(Fault::SameReplica(other.options.database.clone()));
            }
        }
        if found[..index]
            .iter()
            .any(|other| other.location.is_same_place(&one.location))
        {
            return Err(Fault::TwoInOnePlace);
        }
    }
    Ok(found)
}

/// A duration that is not zero.
fn interval(name: &'static str, setting: &Option<Setting>) -> Result<Option<Duration>, Fault> {
    match (duration(name, setting)?, setting) {
        (Some(Duration::ZERO), Some(setting)) => Err(not_a_duration(name, Some(setting.line))),
        (duration, _) => Ok(duration),
    }
}

/// A duration as Go writes it.
fn duration(name: &'static str, setting: &Option<Setting>) -> Result<Option<Duration>, Fault> {
    let Some(setting) = given(setting) else {
        return Ok(None);
    };
    let duration = setting.text.parse::<SignedDuration>().ok();
    match duration.and_then(|duration| Duration::try_from(duration).ok()) {
        Some(duration) => Ok(Some(duration)),
        None => Err(not_a_duration(name, Some(setting.line))),
    }
}

fn given(setting: &Option<Setting>) -> Option<&Setting> {
    setting.as_ref().filter(|setting| !setting.text.is_empty())
}

fn not_a_duration(name: &'static str, line: Option<u64>) -> Fault {
    Fault::Value {
        name,
        line,
        form: "a time, such as 500ms, 1s or 5m",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Expand;

    pub(crate) fn config(text: &str) -> Config {
        Config::parse("replica.yml".into(), text, Expand::Nothing).expect(text)
    }

    #[track_caller]
    pub(crate) fn check_refused(text: &str, message: &str) {
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
        let upkeep = Some(UpkeepOptions::default());
        assert_eq!((&a.options.upkeep, &b.options.upkeep), (&upkeep, &upkeep));
        assert_eq!(config.exec(), Some("app -v"));
        assert_eq!(
            config.shutdown_sync_timeout().expect("a time"),
            Some(seconds(90))
        );
    }

    #[test]
    fn a_database_is_there_once_for_each_of_its_replicas() {
        let config = config(
            "dbs:\n- path: /a.db\n  monitor-interval: 2s\n  replicas:\n  - {path: /a, \
             sync-interval: 10s}\n  - url: file:///b\n- {path: /b.db, replica: {url: 's3://b/c'}}\n",
        );

        let all = config.replicated().expect("it is right");

        let of = |found: &Replicated| {
            let database = found.options.database.display().to_string();
            (database, found.location.to_string())
        };
        let pairs = [
            ("/a.db", "file:///a"),
            ("/a.db", "file:///b"),
            ("/b.db", "s3://b/c"),
        ];
        let pairs = pairs.map(|(path, url)| (path.to_owned(), url.to_owned()));
        assert_eq!(all.iter().map(of).collect::<Vec<_>>(), pairs);
        let windows = all.iter().map(|found| found.options.window.as_millis());
        assert_eq!(windows.collect::<Vec<_>>(), [10_000, 50, 1000]);
        let polls = [&all[0], &all[1]].map(|found| found.options.poll.as_secs());
        assert_eq!(polls, [2, 2]);
        check_refused(
            "dbs: [{path: /a.db, replicas: [{path: /a}, {path: /a}]}]",
            "/a.db: two of its replicas are at one place: each needs a place of its own",
        );
    }

    /// The upkeep of the databases of `text`.
    fn upkeep(text: &str) -> Vec<UpkeepOptions> {
        let replicated = config(text).replicated().expect(text);
        let upkeep = replicated.into_iter().map(|each| each.options.upkeep);
        upkeep.map(|upkeep| upkeep.expect("it is kept")).collect()
    }

    #[test]
    fn the_replica_is_kept_as_litestreams_settings_say() {
        let hours = |hours: u64| Duration::from_secs(3600 * hours);

        let [a, b] = &upkeep(
            "levels: [{interval: 10s}, {interval: 1m30s}]\nsnapshot: {interval: 12h, retention: \
             72h}\nl0-retention: 1h\nl0-retention-check-interval: 15s\nverify-compaction: true\n\
             dbs:\n- {path: /a.db, replica: {path: /a}}\n\
             - {path: /b.db, replica: {path: /b}, snapshot: {retention: 720h}}\n",
        )[..] else {
            panic!("there are two");
        };

        let levels = Levels::new(vec![Duration::from_secs(10), Duration::from_secs(90)]);
        assert_eq!(Some(&a.levels), levels.as_ref());
        assert_eq!(a.snapshot_interval, hours(12));
        let retention = a.retention.expect("files are deleted");
        assert_eq!((retention.raw, retention.states), (hours(1), hours(72)));
        let mut other = a.clone();
        other.retention.as_mut().expect("files are deleted").states = hours(720);
        assert_eq!(*b, other);
    }

    #[test]
    fn nothing_is_deleted_where_retention_is_not_enabled() {
        let dbs = "dbs: [{path: /db, replica: {path: /a}, snapshot: {retention: 1h}}]";
        let of = |enabled| upkeep(&format!("retention: {{enabled: {enabled}}}\n{dbs}"));

        assert_eq!(of("false")[0].retention, None);
        assert!(of("true")[0].retention.is_some());
    }

    #[test]
    fn without_levels_nothing_is_put_together() {
        let [kept] = &upkeep("levels: []\ndbs: [{path: /db, replica: {path: /a}}]")[..] else {
            panic!("there is one");
        };

        assert_eq!(Some(&kept.levels), Levels::new(Vec::new()).as_ref());
    }

    #[test]
    fn an_upkeep_that_can_not_be_is_told() {
        let time = "a time, such as 500ms, 1s or 5m";
        let nine = format!("levels: [{}]", ["{interval: 1s}"; 9].join(", "));
        for (settings, place, name, form) in [
            (
                "levels: [{interval: 0s}]",
                "line 2: ",
                "levels.interval",
                time,
            ),
            (
                "levels:\n- interval: -1s",
                "line 3: ",
                "levels.interval",
                time,
            ),
            ("levels: [{}]", "", "levels.interval", time),
            (nine.as_str(), "", "levels", "eight levels at most"),
            (
                "snapshot: {interval: 1}",
                "line 2: ",
                "snapshot.interval",
                time,
            ),
            (
                "snapshot:\n  retention: -1h",
                "line 3: ",
                "snapshot.retention",
                time,
            ),
            ("l0-retention: 0s", "line 2: ", "l0-retention", time),
            (
                "l0-retention-check-interval: soon",
                "line 2: ",
                "l0-retention-check-interval",
                time,
            ),
            (
                "retention: {enabled: no}",
                "line 2: ",
                "retention.enabled",
                "true or false",
            ),
        ] {
            check_refused(
                &format!("exec: app\n{settings}\ndbs: [{{path: /db, replica: {{path: /a}}}}]"),
                &format!("{place}the value of {name} is not what it should be: {form}"),
            );
        }
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
                &format!("/db: line 1: the value of {name} is not what it should be: {form}"),
            );
        }
    }
}
