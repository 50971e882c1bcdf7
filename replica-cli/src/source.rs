//! Which replica the command line names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use replica::{Config, Expand, Location, Missing};

use crate::status::{Failure, Status};

/// The replica, and the configuration that may say where it is.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// The replica: its URL (file:///path/to/replica), its folder, or the path of its database
    /// in the configuration
    // Optional only for the command that has subcommands beside it.
    #[arg(value_name = "REPLICA", required = true)]
    replica: Option<OsString>,

    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct ConfigArgs {
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
    /// Finds the replica.
    pub(crate) fn resolve(&self) -> Result<Source, Failure> {
        let replica = self.replica.as_deref().unwrap_or_default();
        let path = Path::new(replica);
        if let Some(url) = replica.to_str().filter(|text| is_location(text)) {
            if self.config.config.is_some() {
                return Err(Failure::new(
                    Status::Usage,
                    "a replica's URL and -config do not go together",
                )
                .hint("with -config, give the path of the database"));
            }
            return at(url
                .parse()
                .map_err(|error| Failure::of(Status::Usage, &error))?);
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
            return at(Location::Folder(path.into()));
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
    fn find(&self, config: &Path, database: &Path) -> Result<Source, Failure> {
        let expand = match self.no_expand_env {
            false => Expand::Environment,
            true => Expand::Nothing,
        };
        let location = Config::read(config, expand)
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
    /// The failure for a replica that isn't there, or `None` where it may be.
    pub(crate) fn missing(&self) -> Option<Failure> {
        self.location.missing().map(|missing| self.nothing(missing))
    }

    /// The failure for a replica that holds nothing.
    pub(crate) fn empty(&self) -> Failure {
        Failure::new(
            Status::Nothing,
            format!("no replica at {}: it has no files", self.location),
        )
    }

    fn nothing(&self, missing: Missing) -> Failure {
        let Location::Folder(folder) = &self.location else {
            return Failure::new(Status::Nothing, format!("no replica at {}", self.location));
        };
        let failure = Failure::new(
            Status::Nothing,
            format!("no replica at {}: {missing}", self.location),
        );
        let is_ltx = folder
            .extension()
            .is_some_and(|extension| extension == "ltx");
        match missing {
            Missing::NotAFolder if is_ltx => {
                failure.hint(format!("replica ltx inspect {}", folder.display()))
            }
            Missing::Ltx if folder.file_name().is_some_and(|name| name == "ltx") => {
                failure.hint("give the folder that holds the ltx folder")
            }
            Missing::Folder => match self.as_litestream_names_it() {
                Some(folder) => failure.hint(format!(
                    "Litestream does not decode a URL, and has written to {0}: give that path \
                     without file://",
                    folder.display()
                )),
                None => failure,
            },
            _ => failure,
        }
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

/// Whether this is for [`Location`] to judge, as against a path.
fn is_location(text: &str) -> bool {
    Location::is_url(text) || text.is_empty() || text.starts_with("file:")
}

fn at(location: Location) -> Result<Source, Failure> {
    Ok(Source {
        name: location.to_string(),
        location,
        database: None,
    })
}
