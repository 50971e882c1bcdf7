//! Which replica the command line names.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use replica::{Config, Expand, Location, LocationError, ReplicaClient, TxidRange};

use crate::contact::reach;
use crate::status::{Failure, Status};

/// The replica, and the configuration that may say where it is.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// The replica: its URL (s3://bucket/prefix, sftp://user@host/path, file:///path/to/replica),
    /// its folder, or the path of its database in the configuration
    // Optional only for the command that has subcommands beside it.
    #[arg(value_name = "REPLICA", required = true)]
    replica: Option<OsString>,

    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Litestream's configuration file, in which REPLICA is the path of a database
    ///
    /// Without it, $LITESTREAM_CONFIG or /etc/litestream.yml is asked for a REPLICA that is
    /// neither a URL nor a folder.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Take $NAME and ${NAME} in the configuration as they stand
    #[arg(long)]
    no_expand_env: bool,
}

/// A replica that the command line names.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) location: Location,
    /// As the command line has it, but for secrets.
    pub(crate) name: String,
    /// The path of its database, where the configuration tells it.
    pub(crate) database: Option<PathBuf>,
}

impl SourceArgs {
    /// The replica of the command line that is called `replica`.
    pub(crate) fn new(replica: OsString, config: ConfigArgs) -> SourceArgs {
        SourceArgs {
            replica: Some(replica),
            config,
        }
    }

    /// Finds the replica.
    pub(crate) fn resolve(&self) -> Result<Source, Failure> {
        let replica = self.replica.as_deref().unwrap_or_default();
        let path = Path::new(replica);
        if replica.to_str().is_some_and(is_location) {
            let location = location(replica)?;
            return match &self.config.config {
                Some(config) => self.config.find_place(config, &location),
                None => at(location),
            };
        }
        match &self.config.config {
            Some(config) => self.config.find(config, path),
            None if path.is_dir() => at(Location::Folder(path.into())),
            None => self.in_default_config(path),
        }
    }

    /// The file that the command line names in place of a replica, if it does.
    pub(crate) fn file(&self) -> Option<&Path> {
        let path = Path::new(self.replica.as_deref()?);
        let is_file = path.exists() && !path.is_dir();
        (self.config.config.is_none() && is_file).then_some(path)
    }

    /// `path` is no folder: perhaps it is a database of the configuration that is there without
    /// being asked for.
    fn in_default_config(&self, path: &Path) -> Result<Source, Failure> {
        let config = Config::default_path();
        if !config.exists() {
            return match is_database(path) {
                true => Err(no_replica(path)),
                false => at(Location::Folder(path.into())),
            };
        }
        self.config.find(&config, path).map_err(|failure| {
            failure.hint(format!(
                "{} is no folder that holds a replica either",
                path.display()
            ))
        })
    }
}

impl ConfigArgs {
    /// The databases of the configuration.
    pub(crate) fn databases(&self) -> Result<Vec<PathBuf>, Failure> {
        let path = self.config.clone().unwrap_or_else(Config::default_path);
        if self.config.is_none() && !path.exists() {
            return Err(Failure::new(
                Status::Usage,
                format!("nothing to look at: there is no {}", path.display()),
            )
            .hint("give a replica, or -config"));
        }
        let config = Config::read(path, expand(self.no_expand_env));
        let config = config.map_err(|error| Failure::of(Status::Usage, &error))?;
        Ok(config.databases().collect())
    }

    /// The replicas of a database of the configuration.
    pub(crate) fn of(&self, database: &Path) -> Result<Vec<Source>, Failure> {
        let path = self.config.clone().unwrap_or_else(Config::default_path);
        let locations = Config::read(path, expand(self.no_expand_env))
            .and_then(|config| config.replicas_of(database))
            .map_err(|error| Failure::of(Status::Usage, &error))?;
        let sources = locations.into_iter().map(|location| Source {
            location,
            name: database.display().to_string(),
            database: Some(database.into()),
        });
        Ok(sources.collect())
    }

    /// The replica that the configuration has at `place`.
    fn find_place(&self, config: &Path, place: &Location) -> Result<Source, Failure> {
        let read = Config::read(config, expand(self.no_expand_env));
        let read = read.map_err(|error| Failure::of(Status::Usage, &error))?;
        match read.replica_at(place) {
            Some((database, location)) => Ok(Source {
                location,
                name: place.to_string(),
                database: Some(database),
            }),
            None => Err(Failure::new(
                Status::Usage,
                format!("{}: no database has a replica at {place}", config.display()),
            )
            .hint(
                "with -config, give the path of the database, or the URL of one of its replicas",
            )),
        }
    }

    /// The same, which must be one of `database`.
    fn find_place_of(
        &self,
        config: &Path,
        database: &Path,
        place: &Location,
    ) -> Result<Source, Failure> {
        let source = self.find_place(config, place)?;
        let wanted = absolute(database);
        match &source.database {
            Some(found) if absolute(found) != wanted => Err(Failure::new(
                Status::Usage,
                format!(
                    "{}: {place} is the replica of {}, and not of {}",
                    config.display(),
                    found.display(),
                    wanted.display()
                ),
            )),
            _ => Ok(source),
        }
    }

    fn find(&self, config: &Path, database: &Path) -> Result<Source, Failure> {
        let location = Config::read(config, expand(self.no_expand_env))
            .and_then(|config| config.replica_of(database))
            .map_err(|error| Failure::of(Status::Usage, &error))?;
        Ok(Source {
            location,
            name: database.display().to_string(),
            database: Some(database.into()),
        })
    }
}

impl Source {
    /// Finds the replica of `database`: the one that is named, or the one of the configuration.
    pub(crate) fn of_database(
        database: &Path,
        replica: Option<&OsStr>,
        config: &ConfigArgs,
    ) -> Result<Source, Failure> {
        if let Some(replica) = replica {
            let place = location(replica)?;
            return match &config.config {
                Some(path) => config.find_place_of(path, database, &place),
                None => at(place),
            };
        }
        match &config.config {
            Some(path) => config.find(path, database),
            None if Config::default_path().exists() => {
                config.find(&Config::default_path(), database)
            }
            None => Err(Failure::new(
                Status::Usage,
                format!(
                    "nothing says where the replica of {} is",
                    database.display()
                ),
            )
            .hint("give its URL, or -config")),
        }
    }

    /// Opens the replica, with its layers, if it may be there and its store answers.
    pub(crate) async fn open(&self) -> Result<Arc<dyn ReplicaClient>, Failure> {
        match self.location.missing() {
            Some(missing) => Err(self.nothing(missing)),
            None => Ok(replica::stack(reach(&self.location).await?)),
        }
    }

    /// The failure for a replica that holds nothing.
    pub(crate) fn empty(&self) -> Failure {
        self.nothing("it has no files")
    }

    fn nothing(&self, why: impl Display) -> Failure {
        let failure = Failure::new(
            Status::Nothing,
            format!("no replica at {}: {why}", self.location),
        );
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Where the replica may be instead, by the name that was given.
    fn hint(&self) -> Option<String> {
        let url = self.location.to_string();
        let path = url.split('?').next().unwrap_or_default();
        let mut names = path.rsplit('/');
        let (last, parent) = (names.next().unwrap_or_default(), names.next());
        let is_level = last.parse::<u8>().is_ok_and(|level| level <= 9);
        match &self.location {
            Location::S3(_) if is_level && last.len() == 4 => {
                return Some("that is a level of a replica: give the place above it".to_owned());
            }
            Location::S3(_) => return None,
            _ if is_level && last.len() == 1 && parent == Some("ltx") => {
                return Some("that is a level of a replica: give the folder above ltx".to_owned());
            }
            _ if last == "ltx" => {
                return Some("give the folder that holds the ltx folder".to_owned());
            }
            Location::Folder(folder) if last.parse::<TxidRange>().is_ok() && folder.is_file() => {
                return Some(format!("replica ltx inspect {}", folder.display()));
            }
            _ => {}
        }
        let folder = self.as_litestream_names_it()?;
        Some(format!(
            "Litestream does not decode a URL, and has written to {}: give that path without \
             file://",
            folder.display()
        ))
    }

    /// The folder that Litestream makes of the same URL, where that is another one and exists.
    fn as_litestream_names_it(&self) -> Option<PathBuf> {
        let encoded = self.location.to_string();
        let folder = PathBuf::from(encoded.strip_prefix("file://")?);
        let Location::Folder(ours) = &self.location else {
            return None;
        };
        (folder != *ours && folder.is_dir()).then_some(folder)
    }
}

/// Whether variables of a configuration are replaced, by the flag that says not.
pub(crate) fn expand(no_expand_env: bool) -> Expand {
    match no_expand_env {
        false => Expand::Environment,
        true => Expand::Nothing,
    }
}

/// The place that `text` names: a URL, or the path of a folder.
pub(crate) fn location(text: &OsStr) -> Result<Location, Failure> {
    match text.to_str() {
        Some(text) => text
            .parse()
            .map_err(|error: LocationError| Failure::of(Status::Usage, &error)),
        None => Ok(Location::Folder(text.into())),
    }
}

/// A path as an absolute one, in the words it was given in where it can't be made one.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether this is for [`Location`] to judge, as against a path.
fn is_location(text: &str) -> bool {
    Location::is_url(text) || !matches!(text.parse(), Ok(Location::Folder(_)))
}

/// Whether this is a database as SQLite writes it, and so no replica.
pub(crate) fn is_database(path: &Path) -> bool {
    let mut start = [0; 16];
    let is_file = path.is_file();
    let read = || File::open(path)?.read_exact(&mut start);
    is_file && { read }().is_ok() && start == *b"SQLite format 3\0"
}

fn no_replica(database: &Path) -> Failure {
    let path = database.display();
    Failure::new(
        Status::Usage,
        format!("{path} is a SQLite database, not a replica, and there is no configuration that says where its replica is"),
    )
    .hint(format!(
        "give the URL of its replica, or -config; to restore it: replica restore -o {path} URL"
    ))
}

fn at(location: Location) -> Result<Source, Failure> {
    Ok(Source {
        name: location.to_string(),
        location,
        database: None,
    })
}
