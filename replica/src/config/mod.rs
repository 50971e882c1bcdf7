//! Litestream's configuration file: which databases there are, and how they are replicated.

mod expand;
mod keys;
mod replicated;
mod yaml;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::location::{Parameters, Secret};
use crate::{Location, LocationError, S3Location, SftpLocation};

pub use keys::PassedOver;
pub use replicated::Replicated;

use keys::{Judged, Unfit};

/// Which database is replicated where: the `dbs` of a Litestream configuration file.
///
/// ```yaml
/// dbs:
///   - path: /var/lib/app.db
///     replica:
///       url: file:///var/backups/app
/// ```
///
/// Whoever only [looks for a replica](Config::replica_of) is not kept from it by what else is in
/// the file: a database's settings are judged when its replica is asked for, and keys that nobody
/// knows when databases are to be [replicated](Config::replicated). A variable that is not set keeps
/// everybody from it: it may stand for any part of the file.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    document: yaml::Document,
    /// What holds for every replica that says nothing else.
    defaults: yaml::Replica,
    keys: Judged,
}

/// Whether `$NAME` and `${NAME}` in a configuration stand for environment variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expand {
    /// They do. A variable that is not set is an error, since a path without it is another one: for
    /// Litestream it is empty.
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
            Expand::Environment => {
                if let Some(line) = expand::unset(text, |name| environment(name).is_some()) {
                    return Err(ConfigError::new(path, Fault::Unset(line)));
                }
                &expand::expand(text, |name| environment(name).unwrap_or_default())
            }
            Expand::Nothing => text,
        };
        match yaml::parse(expanded) {
            Ok((document, defaults, keys)) => Ok(Config {
                keys: Judged::new(&keys, path.clone()),
                path,
                document,
                defaults,
            }),
            Err(position) => {
                let mere = yaml::mere_replica(expanded);
                let fault = mere.map_or(Fault::Yaml(position), Fault::MereReplica);
                Err(ConfigError::new(path, fault))
            }
        }
    }

    /// Where the replica of `database` is kept, which must be the only one. Paths are compared as
    /// absolute ones, `~` standing for the home folder.
    pub fn replica_of(&self, database: impl AsRef<Path>) -> Result<Location, ConfigError> {
        let mut all = self.replicas_of(&database)?;
        match (all.pop(), all.is_empty()) {
            (Some(replica), true) => Ok(replica),
            (last, _) => {
                all.extend(last);
                let places = all.iter().map(Location::to_string).collect();
                let wanted = absolute(database.as_ref());
                Err(self.error_about(Some(wanted), Fault::SeveralReplicas(places)))
            }
        }
    }

    /// Where the replicas of `database` are kept, of which there is at least one.
    pub fn replicas_of(&self, database: impl AsRef<Path>) -> Result<Vec<Location>, ConfigError> {
        let wanted = absolute(database.as_ref());
        let mut entries = self.entries().iter();
        entries
            .find(|entry| filled(&entry.path).is_some_and(|path| absolute(path) == wanted))
            .ok_or(Fault::NoSuchDatabase)
            .and_then(|entry| {
                let replicas = replicas(entry, &self.defaults)?;
                replicas.iter().map(location).collect()
            })
            .map_err(|fault| self.error_about(Some(wanted), fault))
    }

    /// The replica that is kept at `place`, with the settings that the configuration has for it, and
    /// the path of its database. What else a URL may say of a place, behind a question mark, is not
    /// compared. None where no database has one there.
    pub fn replica_at(&self, place: &Location) -> Option<(PathBuf, Location)> {
        let plain = |place: &Location| {
            let place = match place {
                Location::Folder(folder) => Location::Folder(absolute(folder)).to_string(),
                place => place.to_string(),
            };
            place.split('?').next().map(str::to_owned)
        };
        let wanted = plain(place);
        self.databases().find_map(|database| {
            // What is wrong with another database does not matter here.
            let replicas = self.replicas_of(&database).ok()?.into_iter();
            let found = replicas
                .into_iter()
                .find(|replica| plain(replica) == wanted)?;
            Some((database, found))
        })
    }

    /// The paths of all databases that have one, as absolute ones.
    pub fn databases(&self) -> impl Iterator<Item = PathBuf> {
        let paths = self.entries().iter().map(|database| filled(&database.path));
        paths.flatten().map(absolute)
    }

    fn entries(&self) -> &[yaml::Database] {
        self.document.dbs.as_deref().unwrap_or_default()
    }

    fn error_about(&self, database: Option<PathBuf>, fault: Fault) -> ConfigError {
        ConfigError {
            database,
            ..ConfigError::new(self.path.clone(), fault)
        }
    }
}

/// A configuration file, or a database in it, that leads to no replica. Quotes nothing of the
/// file, which may hold secrets, but the names of keys, types and schemes.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    database: Option<PathBuf>,
    fault: Fault,
}

enum Fault {
    Read(io::Error),
    Yaml(Option<yaml::Position>),
    /// The line of a replica that is a text.
    MereReplica(u64),
    /// The line of a variable.
    Unset(u64),
    NoSuchDatabase,
    NoReplica,
    SeveralReplicas(Vec<String>),
    BothForms,
    TwoInOnePlace,
    NoPath,
    Missing(&'static str),
    UrlAnd(&'static str),
    Location(LocationError),
    NoDatabase,
    Unnamed,
    Folder,
    Repeated,
    SameReplica(PathBuf),
    Key(Unfit),
    Value {
        name: &'static str,
        /// Where it is, if it is anywhere.
        line: Option<u64>,
        form: &'static str,
    },
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
            Fault::MereReplica(line) => {
                return write!(
                    f,
                    "line {line}: a replica has settings: write its URL as url below it"
                );
            }
            Fault::Unset(line) => {
                return write!(
                    f,
                    "line {line}: an environment variable is not set: set it, to nothing if that is \
                     meant, or turn their expansion off if the $ stands for itself"
                );
            }
            Fault::NoSuchDatabase => "the configuration has no such database",
            Fault::NoReplica => "the database has no replica",
            Fault::SeveralReplicas(places) => {
                return write!(
                    f,
                    "the database has several replicas: say which one by its URL: {}",
                    places.join(" or ")
                );
            }
            Fault::BothForms => "the database has both a replica and replicas: leave one of these",
            Fault::TwoInOnePlace => {
                "two of its replicas are at one place: each needs a place of its own"
            }
            Fault::NoPath => "the replica has neither a url nor a path",
            Fault::Missing(what) => return write!(f, "the replica has neither a url nor a {what}"),
            Fault::UrlAnd(what) => {
                return write!(f, "the replica has both a url and a {what}: leave one");
            }
            Fault::Location(_) => "the replica can't be opened",
            Fault::NoDatabase => "the configuration has no databases",
            Fault::Unnamed => "a database has no path",
            Fault::Folder => {
                "a folder of databases (dir) can't be replicated yet: name each database by its path"
            }
            Fault::Repeated => "the database is there twice: leave one",
            Fault::SameReplica(other) => {
                return write!(
                    f,
                    "its replica is that of {} too: each needs a place of its own",
                    other.display()
                );
            }
            Fault::Key(unfit) => return unfit.fmt(f),
            Fault::Value { name, line, form } => {
                if let Some(line) = line {
                    write!(f, "line {line}: ")?;
                }
                return write!(f, "the value of {name} is not what it should be: {form}");
            }
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

fn environment(name: &str) -> Option<String> {
    // Go's names are anything; the platform's have neither of these.
    if name.contains(['=', '\0']) {
        return None;
    }
    std::env::var(name).ok()
}

/// The replicas of a database, each with what holds for all.
fn replicas(
    database: &yaml::Database,
    defaults: &yaml::Replica,
) -> Result<Vec<yaml::Replica>, Fault> {
    let replicas = match (&database.replica, database.replicas.as_deref()) {
        (Some(replica), None | Some([])) => std::slice::from_ref(replica),
        (None, Some(replicas @ [_, ..])) => replicas,
        (None, None | Some([])) => return Err(Fault::NoReplica),
        (Some(_), Some(_)) => return Err(Fault::BothForms),
    };
    let replicas = replicas.iter().map(|replica| replica.clone().or(defaults));
    Ok(replicas.collect())
}

/// The scheme of a `url` decides; without one the `type` does, and without that it is a file.
fn location(replica: &yaml::Replica) -> Result<Location, Fault> {
    let url = filled(&replica.url);
    if url.is_some() && filled(&replica.path).is_some() {
        return Err(Fault::UrlAnd("path"));
    }
    let named = match url {
        Some(url) => Location::from_url(url).map_err(Fault::Location)?,
        None => match filled(&replica.kind) {
            None | Some("file") => {
                let path = filled(&replica.path).ok_or(Fault::NoPath)?;
                Location::Folder(absolute(path))
            }
            Some("s3") => Location::S3(Box::new(bucket(replica)?)),
            Some("sftp") => Location::Sftp(Box::new(server(replica)?)),
            Some(kind) => return Err(Fault::Location(LocationError::no_client(kind))),
        },
    };
    match named {
        Location::S3(location) => configured_s3(*location, replica),
        Location::Sftp(location) => configured_sftp(*location, replica),
        folder @ Location::Folder(_) => Ok(folder),
    }
}

fn bucket(replica: &yaml::Replica) -> Result<S3Location, Fault> {
    let bucket = filled(&replica.bucket).ok_or(Fault::Missing("bucket"))?;
    let path = filled(&replica.path).unwrap_or_default();
    S3Location::of_bucket(bucket, path).map_err(Fault::Location)
}

fn server(replica: &yaml::Replica) -> Result<SftpLocation, Fault> {
    let host = filled(&replica.host).ok_or(Fault::Missing("host"))?;
    let user = filled(&replica.user).ok_or(Fault::Missing("user"))?;
    let path = filled(&replica.path).ok_or(Fault::NoPath)?;
    SftpLocation::of_host(host, user, path).map_err(Fault::Location)
}

/// The settings of a configuration are taken over those of a URL.
fn configured_s3(mut location: S3Location, replica: &yaml::Replica) -> Result<Location, Fault> {
    if filled(&replica.url).is_some() && filled(&replica.bucket).is_some() {
        return Err(Fault::UrlAnd("bucket"));
    }
    let mut settings = replica.settings();
    for (_, text) in settings.iter_mut().filter(|(name, _)| name == "endpoint") {
        // In a URL Litestream takes a host nearby for one without TLS, and here it does not.
        if !text.is_empty() && !text.contains("://") {
            text.insert_str(0, "https://");
        }
    }
    location
        .configure(&mut Parameters::new("s3", settings))
        .map_err(Fault::Location)?;
    let secret = |text: &Option<String>| filled(text).map(Secret::new);
    location.access_key_id = secret(&replica.access_key_id);
    location.secret_access_key = secret(&replica.secret_access_key);
    location.sse_customer_key_path = filled(&replica.sse_customer_key_path).map(absolute);
    Ok(Location::S3(Box::new(location)))
}

fn configured_sftp(mut location: SftpLocation, replica: &yaml::Replica) -> Result<Location, Fault> {
    if filled(&replica.url).is_some() && filled(&replica.host).is_some() {
        return Err(Fault::UrlAnd("host"));
    }
    let mut settings = replica.settings();
    // It speaks of TLS, and may have been set for all replicas.
    settings.retain(|(name, _)| name != "skip-verify");
    location
        .configure(&mut Parameters::new("sftp", settings))
        .map_err(Fault::Location)?;
    if let Some(user) = filled(&replica.user) {
        location.user = user.to_owned();
    }
    location.key_path = location.key_path.map(absolute);
    location.password = filled(&replica.password)
        .map(Secret::new)
        .or(location.password);
    Ok(Location::Sftp(Box::new(location)))
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
        let here = std::env::current_dir().expect("this process is somewhere");

        assert_eq!(
            config.replica_of("/var/lib/a.db").expect("it has one"),
            Location::Folder("/backups/a b".into())
        );
        assert_eq!(
            config.replica_of(here.join("b.db")).expect("it has one"),
            Location::Folder(here.join("backups/b"))
        );
    }

    /// The place of database `/db`, with `globals` above the databases.
    #[track_caller]
    fn place(globals: &str, replica: &str) -> Location {
        let config = config(&format!("{globals}\ndbs:\n  - path: /db\n    {replica}\n"));
        config.replica_of("/db").expect(replica)
    }

    #[test]
    fn a_bucket_is_given_by_a_url_or_by_fields() {
        let fields = "replica: {type: s3, bucket: b, path: /a//b/, endpoint: minio.example.com, \
                      region: eu, provider: garage, force-path-style: true, skip-verify: yes, sign-payload: false, \
                      require-content-md5: true, part-size: 8MiB, concurrency: 3, \
                      storage-class: GLACIER, sse-kms-key-id: 7}";
        let url = "s3://b/a/b?endpoint=https://minio.example.com&region=eu&provider=garage\
                   &force-path-style=true&skip-verify=true&part-size=8388608&concurrency=3&storage-class=GLACIER\
                   &sse-kms-key-id=7";

        assert_eq!(place("", fields).to_string(), url);
        assert_eq!(
            place("", &format!("replica: {{url: '{url}'}}")).to_string(),
            url
        );
        assert_eq!(
            place("", "replicas: [{type: s3, bucket: b, part-size: 8388608}]").to_string(),
            "s3://b?part-size=8388608"
        );
    }

    #[test]
    fn fields_are_taken_over_a_url_and_a_replicas_own_over_those_of_all() {
        let globals = "access-key-id: AKIA\nsecret-access-key: 0123\nregion: global\n\
                       storage-class: GLACIER\nendpoint: localhost:9000";
        let replica = "replica: {url: 's3://b/p?region=url&concurrency=2', region: own, \
                       access-key-id: '', sse-customer-key-path: /a/../key}";

        let place = place(globals, replica);

        assert_eq!(
            place.to_string(),
            "s3://b/p?endpoint=https://localhost:9000&region=own&concurrency=2\
             &storage-class=GLACIER"
        );
        let Location::S3(location) = place else {
            panic!("{place}")
        };
        assert_eq!(location.access_key_id, Some(Secret::new("AKIA")));
        assert_eq!(location.secret_access_key, Some(Secret::new("0123")));
        assert_eq!(location.sse_customer_key_path, Some("/key".into()));
    }

    #[test]
    fn a_server_is_given_by_a_url_or_by_fields() {
        let key = "host-key: ssh-ed25519 AAAA+B= comment";
        let fields = format!(
            "replica: {{type: sftp, host: 'h:22', user: me, password: 0123, path: /a, \
             key-path: /x/../id, {key}, concurrent-writes: false}}"
        );
        let shown = "sftp://me@h:22/a?key-path=/id&host-key=ssh-ed25519%20AAAA%2BB%3D%20comment";

        let place_of_fields = place("skip-verify: true", &fields);
        let place_of_url = place(
            "user: you",
            &format!("replica: {{url: 'sftp://me:p%20w@h:22/a', key-path: /id, {key}, user: me}}"),
        );

        assert_eq!(place_of_fields.to_string(), shown);
        assert_eq!(place_of_url.to_string(), shown);
        for (place, password) in [(place_of_fields, "0123"), (place_of_url, "p w")] {
            let Location::Sftp(location) = place else {
                panic!("{place}")
            };
            assert_eq!(location.password, Some(Secret::new(password)));
            assert_eq!(location.skip_verify, None);
        }
    }

    #[test]
    fn no_secret_of_a_configuration_is_shown() {
        let config = config(
            "secret-access-key: hush\ndbs: [{path: /db, replica: {url: 'sftp://me:hush@h/a', \
             password: hush}}]",
        );

        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        let place = config.replica_of("/db").expect("it has one");
        assert!(!format!("{place} {place:?}").contains("hush"), "{place:?}");
    }

    #[test]
    fn the_home_folder_is_a_tilde() {
        let home = PathBuf::from(std::env::var_os("HOME").expect("the tests need $HOME"));
        let config = config("dbs: [{path: ~/app.db, replica: {path: ~/backups}}]");

        assert_eq!(
            config.replica_of(home.join("app.db")).expect("it has one"),
            Location::Folder(home.join("backups"))
        );
    }

    #[test]
    fn variables_are_expanded_only_where_asked_for() {
        let home = PathBuf::from(home().expect("HOME should be set"));
        let text = "dbs: [{path: /db, replica: {path: \"${HOME}/y\"}}]";

        for (expand, path) in [
            (Expand::Environment, home.join("y")),
            (
                Expand::Nothing,
                std::path::absolute("${HOME}/y").expect("a path"),
            ),
        ] {
            let config =
                Config::parse("replica.yml".into(), text, expand).expect("a configuration");

            assert_eq!(
                config.replica_of("/db").expect("a replica"),
                Location::Folder(path)
            );
        }
    }

    #[test]
    fn a_replica_that_is_a_mere_url_is_told_how_to_write_it() {
        for text in [
            "dbs:\n- path: /db\n  replica: file:///hush\n",
            "dbs:\n- path: /db\n  replicas:\n  - file:///hush\n",
        ] {
            let error = Config::parse("replica.yml".into(), text, Expand::Nothing)
                .expect_err("it has no settings");

            assert_eq!(
                error.to_string(),
                "replica.yml: line 3: a replica has settings: write its URL as url below it"
            );
        }
    }

    /// `$UNSET/rep` was once `/rep`, and replicated to.
    #[test]
    fn a_variable_that_is_not_set_is_an_error_that_does_not_name_it() {
        let text = "dbs:\n- path: /db\n  replica: {path: $REPLICA_TEST_HUSH/y} # $OTHER\n";

        let error = Config::parse("replica.yml".into(), text, Expand::Environment)
            .expect_err("it is not set");

        assert_eq!(
            error.to_string(),
            "replica.yml: line 3: an environment variable is not set: set it, to nothing if that is \
             meant, or turn their expansion off if the $ stands for itself"
        );
        assert!(!format!("{error:?}").contains("HUSH"), "{error:?}");
    }

    #[test]
    fn one_of_several_replicas_is_found_by_its_url_and_has_its_settings() {
        let text = "dbs:\n  - path: /other\n  - path: /db\n    replicas:\n      - path: /a\n      \
                    - {url: 's3://bucket/b', region: here}\n";
        let config =
            Config::parse("replica.yml".into(), text, Expand::Nothing).expect("it is well formed");
        let at = |url: &str| config.replica_at(&url.parse().expect("a URL"));

        let all = config.replicas_of("/db").expect("it has one");
        let urls: Vec<_> = all.iter().map(Location::to_string).collect();

        assert_eq!(urls, ["file:///a", "s3://bucket/b?region=here"]);
        assert_eq!(at("file:///a"), Some(("/db".into(), all[0].clone())));
        assert_eq!(at("s3://bucket/b"), Some(("/db".into(), all[1].clone())));
        assert_eq!(at("s3://bucket/c"), None);
    }

    #[test]
    fn a_database_without_one_usable_replica_says_why() {
        for (replica, message) in [
            ("", "the database has no replica"),
            (
                "replicas: [{path: /a}, {path: /b}]",
                "the database has several replicas: say which one by its URL: file:///a or \
                 file:///b",
            ),
            (
                "replica: {path: /a}\n    replicas: [{path: /b}]",
                "the database has both a replica and replicas: leave one of these",
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
                 s3://bucket/prefix, sftp://user@host/path or file:///path/to/replica",
            ),
            (
                "replica: {type: gs, bucket: b, path: p}",
                "the replica can't be opened: there is no client for gs:// yet: write \
                 s3://bucket/prefix, sftp://user@host/path or file:///path/to/replica, or the \
                 path of a folder",
            ),
            (
                "replica: {type: zork, path: p}",
                "the replica can't be opened: unknown scheme zork://: write s3://bucket/prefix, \
                 sftp://user@host/path or file:///path/to/replica, or the path of a folder",
            ),
            (
                "replica: {type: s3, path: p}",
                "the replica has neither a url nor a bucket",
            ),
            (
                "replica: {url: 's3://b/p', bucket: b}",
                "the replica has both a url and a bucket: leave one",
            ),
            (
                "replica: {type: s3, bucket: b, part-size: hush}",
                "the replica can't be opened: the value of part-size is not what it should be: a \
                 number of bytes, such as 8388608 or 8MiB",
            ),
            (
                "replica: {type: sftp, user: me, path: /a}",
                "the replica has neither a url nor a host",
            ),
            (
                "replica: {type: sftp, host: h, path: /a}",
                "the replica has neither a url nor a user",
            ),
            (
                "replica: {type: sftp, host: h, user: me}",
                "the replica has neither a url nor a path",
            ),
            (
                "replica: {url: 'sftp://me@h/a', host: h}",
                "the replica has both a url and a host: leave one",
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
        for (text, place) in [
            ("dbs:\n  - path: [hush", "line 2, column 11"),
            ("dbs:\n  - path: /db\n    replica: hush", "line 3"),
            ("dbs: hush", "line 1, column 6"),
            ("hush", "line 1, column 1"),
            ("dbs: *hush", "line 1, column 6"),
            ("dbs:\n  - path: \"hush", "line 2, column 11"),
            ("\u{0}hush", "line 1, column 1"),
        ] {
            let error = Config::parse("replica.yml".into(), text, Expand::Nothing).expect_err(text);

            let told = format!("replica.yml: {place}: ");
            assert!(error.to_string().starts_with(&told), "{error}");
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
