//! Litestream's configuration file, as far as finding a database's replica needs it.

mod expand;
mod yaml;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::{Location, LocationError};

/// Which database is replicated where: the `dbs` of a Litestream configuration file.
///
/// ```yaml
/// dbs:
///   - path: /var/lib/app.db
///     replica:
///       url: file:///var/backups/app
/// ```
///
/// Keys that a restore does not need are passed over. A database's settings are judged when its
/// replica is asked for, so that a database whose store this build can't open is not in the way
/// of the others.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    databases: Vec<yaml::Database>,
}

/// Whether `$NAME` and `${NAME}` in a configuration stand for environment variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expand {
    /// They do. A variable that is not set is empty.
    Environment,
    /// They stand for themselves.
    Nothing,
}

impl Config {
    /// Where Litestream's configuration is when nothing else is said: `$LITESTREAM_CONFIG`, or
    /// `/etc/litestream.yml`.
    pub fn default_path() -> PathBuf {
        match std::env::var_os("LITESTREAM_CONFIG") {
            Some(path) if !path.is_empty() => path.into(),
            _ => "/etc/litestream.yml".into(),
        }
    }

    /// Reads the configuration file at `path`.
    pub fn read(path: impl Into<PathBuf>, expand: Expand) -> Result<Config, ConfigError> {
        let path = path.into();
        match read_text(&path) {
            Ok(text) => Config::parse(path, &text, expand),
            Err(error) => Err(ConfigError::new(path, Fault::Read(error))),
        }
    }

    fn parse(path: PathBuf, text: &str, expand: Expand) -> Result<Config, ConfigError> {
        let expanded = match expand {
            Expand::Environment => &expand::expand(text, environment),
            Expand::Nothing => text,
        };
        match yaml::parse(expanded) {
            Ok(document) => Ok(Config {
                path,
                databases: document.dbs.unwrap_or_default(),
            }),
            Err(position) => Err(ConfigError::new(path, Fault::Yaml(position))),
        }
    }

    /// Where the replica of `database` is kept. Paths are compared as absolute ones, `~` standing
    /// for the home folder.
    pub fn replica_of(&self, database: impl AsRef<Path>) -> Result<Location, ConfigError> {
        let wanted = absolute(database.as_ref());
        self.databases
            .iter()
            .find(|database| {
                database
                    .path
                    .as_ref()
                    .is_some_and(|path| absolute(path) == wanted)
            })
            .ok_or(Fault::NoSuchDatabase)
            .and_then(replica)
            .map_err(|fault| ConfigError {
                database: Some(wanted),
                ..ConfigError::new(self.path.clone(), fault)
            })
    }
}

/// A configuration file, or a database in it, that leads to no replica. Quotes nothing of the
/// file, which may hold secrets, but the names of types and schemes.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    database: Option<PathBuf>,
    fault: Fault,
}

enum Fault {
    Read(io::Error),
    Yaml(Option<yaml::Position>),
    NoSuchDatabase,
    NoReplica,
    SeveralReplicas,
    NoPath,
    UrlAndPath,
    Location(LocationError),
}

impl ConfigError {
    fn new(path: PathBuf, fault: Fault) -> ConfigError {
        ConfigError {
            path,
            database: None,
            fault,
        }
    }

    /// Whether the file could be read and does not name the database.
    pub fn is_no_such_database(&self) -> bool {
        matches!(self.fault, Fault::NoSuchDatabase)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(database) = &self.database {
            write!(f, "{}: ", database.display())?;
        }
        fmt::Display::fmt(&self.fault, f)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Read(error) => Some(error),
            Fault::Location(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = match self {
            Fault::Read(_) => "the configuration could not be read",
            Fault::Yaml(Some(yaml::Position { line, column })) => {
                return write!(
                    f,
                    "line {line}, column {column}: not YAML, or not what a configuration has here"
                );
            }
            Fault::Yaml(None) => "the configuration is not YAML",
            Fault::NoSuchDatabase => "the configuration has no such database",
            Fault::NoReplica => "the database has no replica",
            Fault::SeveralReplicas => "the database has several replicas: leave one",
            Fault::NoPath => "the replica has neither a url nor a path",
            Fault::UrlAndPath => "the replica has both a url and a path: leave one",
            Fault::Location(_) => "the replica can't be opened",
        };
        f.write_str(fault)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// More than any configuration has, and little enough to read without thought.
const CONFIG_SIZE_MAX: u64 = 16 << 20;

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(CONFIG_SIZE_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > CONFIG_SIZE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("a configuration has at most {} MiB", CONFIG_SIZE_MAX >> 20),
        ));
    }
    Ok(text)
}

fn environment(name: &str) -> String {
    // Go's names are anything; the platform's have neither of these.
    if name.contains(['=', '\0']) {
        return String::new();
    }
    std::env::var(name).unwrap_or_default()
}

/// The scheme of a `url` decides; without one the `type` does, and without that it is a file.
fn replica(database: &yaml::Database) -> Result<Location, Fault> {
    let replica = match (&database.replica, database.replicas.as_deref()) {
        (Some(replica), None | Some([])) | (None, Some([replica])) => replica,
        (None, None | Some([])) => return Err(Fault::NoReplica),
        _ => return Err(Fault::SeveralReplicas),
    };
    let (url, path) = (filled(&replica.url), filled(&replica.path));
    if let Some(url) = url {
        let location = Location::from_url(url).map_err(Fault::Location)?;
        return match path {
            None => Ok(location),
            Some(_) => Err(Fault::UrlAndPath),
        };
    }
    match filled(&replica.kind) {
        None | Some("file") => {
            let path = path.ok_or(Fault::NoPath)?;
            Ok(Location::Folder(absolute(path)))
        }
        Some(kind) => Err(Fault::Location(LocationError::no_client(kind))),
    }
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// The path as an absolute one without `.` and `..`, with `~` for the home folder: names are
/// compared, and no link is followed.
fn absolute(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    let path = match (path.strip_prefix("~"), home()) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_path_buf(),
    };
    let path = std::path::absolute(&path).unwrap_or(path);
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            component => cleaned.push(component),
        }
    }
    cleaned
}

fn home() -> Option<OsString> {
    std::env::var_os("HOME").filter(|home| !home.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    fn config(text: &str) -> Config {
        Config::parse("replica.yml".into(), text, Expand::Environment).expect(text)
    }

    /// The message about database `/db`, its causes after a colon.
    fn refusal(replica: &str) -> String {
        let config = config(&format!("dbs:\n  - path: /db\n    {replica}\n"));
        let error = config.replica_of("/db").expect_err(replica);
        match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn a_database_is_found_by_its_path() {
        let config = config(
            "addr: :9090\n\
             dbs:\n\
             \x20 - path: /var/lib/../lib/a.db\n\
             \x20   monitor-interval: 1s\n\
             \x20   replica: {url: 'file:///backups/a%20b', zork: 1}\n\
             \x20 - path: b.db\n\
             \x20   replicas:\n\
             \x20     - type: file\n\
             \x20       path: backups/b\n\
             \x20 - dir: /many\n\
             \x20 - path: /s3.db\n\
             \x20   replica: {url: s3://bucket/path}\n",
        );
        let here = std::env::current_dir().unwrap();

        assert_eq!(
            config.replica_of("/var/lib/a.db").unwrap(),
            Location::Folder("/backups/a b".into())
        );
        assert_eq!(
            config.replica_of(here.join("b.db")).unwrap(),
            Location::Folder(here.join("backups/b"))
        );
    }

    #[test]
    fn the_home_folder_is_a_tilde() {
        let home = PathBuf::from(std::env::var_os("HOME").expect("the tests need $HOME"));
        let config = config("dbs: [{path: ~/app.db, replica: {path: ~/backups}}]");

        assert_eq!(
            config.replica_of(home.join("app.db")).unwrap(),
            Location::Folder(home.join("backups"))
        );
    }

    #[test]
    fn variables_are_expanded_only_where_asked_for() {
        let text = "dbs: [{path: /db, replica: {path: \"/x${REPLICA_TEST_UNSET}/y\"}}]";

        for (expand, path) in [
            (Expand::Environment, "/x/y"),
            (Expand::Nothing, "/x${REPLICA_TEST_UNSET}/y"),
        ] {
            let config = Config::parse("replica.yml".into(), text, expand).unwrap();

            assert_eq!(
                config.replica_of("/db").unwrap(),
                Location::Folder(path.into())
            );
        }
    }

    #[test]
    fn a_database_without_one_usable_replica_says_why() {
        for (replica, message) in [
            ("", "the database has no replica"),
            (
                "replicas: [{path: /a}, {path: /b}]",
                "the database has several replicas: leave one",
            ),
            (
                "replica: {path: /a}\n    replicas: [{path: /b}]",
                "the database has several replicas: leave one",
            ),
            (
                "replica: {type: file}",
                "the replica has neither a url nor a path",
            ),
            (
                "replica: {url: 'file:///a', path: /b}",
                "the replica has both a url and a path: leave one",
            ),
            (
                "replica: {url: /a}",
                "the replica can't be opened: the replica's URL has no scheme: write \
                 file:///path/to/replica",
            ),
            (
                "replica: {type: s3, bucket: b, path: p}",
                "the replica can't be opened: this build has no client for s3://: it opens \
                 file:///path/to/replica, or the path of a folder",
            ),
            (
                "replica: {type: zork, path: p}",
                "the replica can't be opened: unknown scheme zork://: this build opens \
                 file:///path/to/replica, or the path of a folder",
            ),
        ] {
            assert_eq!(refusal(replica), format!("replica.yml: /db: {message}"));
        }
    }

    #[test]
    fn a_database_that_is_not_there_is_named() {
        let error = config("").replica_of("/other.db").unwrap_err();

        assert!(error.is_no_such_database());
        assert_eq!(
            error.to_string(),
            "replica.yml: /other.db: the configuration has no such database"
        );
    }

    #[test]
    fn a_malformed_configuration_is_told_by_its_place_and_shows_no_secret() {
        for text in [
            "dbs:\n  - path: [hush",
            "dbs:\n  - path: /db\n    replica: hush",
            "dbs: hush",
            "hush",
            "dbs: *hush",
            "dbs:\n  - path: \"hush",
            "\u{0}hush",
        ] {
            let error = Config::parse("replica.yml".into(), text, Expand::Nothing).expect_err(text);

            assert!(error.to_string().starts_with("replica.yml: "), "{error}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
            assert!(error.source().is_none());
        }
    }

    #[test]
    fn a_configuration_that_can_not_be_read_is_named_with_the_cause() {
        let error = Config::read("/nowhere/replica.yml", Expand::Nothing).unwrap_err();

        assert_eq!(
            error.to_string(),
            "/nowhere/replica.yml: the configuration could not be read"
        );
        assert!(error.source().is_some());
    }

    #[test]
    fn a_configuration_without_an_end_is_refused() {
        let error = Config::read("/dev/zero", Expand::Nothing).unwrap_err();

        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("a configuration has at most 16 MiB")
        );
    }
}
