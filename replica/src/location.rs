//! Where a replica is kept, as a person writes it.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use replica_core::{Layout, Level, ReplicaClient};
use replica_file::FileClient;

use crate::stack;

/// Where a replica is kept.
///
/// It is written as Litestream writes it: a URL such as `file:///var/backups/app`, or the path of
/// a folder, absolute or relative. [`FromStr`] takes both, [`from_url`](Location::from_url) URLs
/// only. In a URL, `%20` stands for a space and so on; a path is taken as it is.
///
/// ```
/// use replica::Location;
///
/// let location: Location = "file:///var/backups/my%20app".parse()?;
///
/// assert_eq!(location, Location::Folder("/var/backups/my app".into()));
/// assert_eq!(location.to_string(), "file:///var/backups/my%20app");
/// # Ok::<(), replica::LocationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Location {
    /// A folder of a local file system.
    Folder(PathBuf),
}

impl Location {
    /// The place that `url` names: a URL, not a path.
    pub fn from_url(url: &str) -> Result<Location, LocationError> {
        let Some((scheme, rest)) = split_scheme(url) else {
            return Err(if url.is_empty() {
                LocationError::Empty
            } else {
                LocationError::NoScheme
            });
        };
        if scheme.eq_ignore_ascii_case("file") {
            return folder(rest);
        }
        Err(LocationError::no_client(scheme))
    }

    /// Whether `text` is written as a URL, whatever its scheme, and not as a path.
    pub fn is_url(text: &str) -> bool {
        split_scheme(text).is_some()
    }

    /// The scheme of the client that it opens with.
    pub fn scheme(&self) -> &'static str {
        match self {
            Location::Folder(_) => "file",
        }
    }

    /// A client rooted here with the [canonical layers](crate::stack()) around it.
    ///
    /// Costs no I/O: a place that does not exist shows itself at the first call.
    pub fn open(&self) -> Arc<dyn ReplicaClient> {
        stack(self.client())
    }

    /// The bare client of the store, without a layer: what a conformance run judges.
    pub fn client(&self) -> Arc<dyn ReplicaClient> {
        match self {
            Location::Folder(path) => Arc::new(FileClient::new(path)),
        }
    }

    /// The place named `namespace` below this one.
    #[must_use]
    pub fn join(&self, namespace: &str) -> Location {
        match self {
            Location::Folder(path) => Location::Folder(path.join(namespace)),
        }
    }

    /// Why there is no replica here, where a look at the place tells.
    ///
    /// A store answers an empty listing for a replica that was never written, as it must. This is
    /// for the person who mistyped its name.
    pub fn missing(&self) -> Option<Missing> {
        match self {
            Location::Folder(path) => missing_folder(path),
        }
    }
}

/// Schemes that Litestream opens and this build does not.
const LITESTREAM_SCHEMES: [&str; 8] = [
    "s3", "sftp", "gs", "abs", "webdav", "webdavs", "nats", "oss",
];

/// A URL, or else the path of a folder.
impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Location, LocationError> {
        if Location::is_url(text) {
            return Location::from_url(text);
        }
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if text.starts_with("file:") {
            return Err(LocationError::NoSlashes);
        }
        Ok(Location::Folder(PathBuf::from(text)))
    }
}

/// The URL of an absolute place, and the path of a relative one: [`FromStr`] takes both back.
/// Holds no secret.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(path) if path.is_absolute() => {
                f.write_str("file://")?;
                write_encoded(f, path.as_os_str().as_bytes())
            }
            Location::Folder(path) => path.display().fmt(f),
        }
    }
}

/// A text that names no place this build can open. Shows of a URL its scheme, host and the names
/// of its parameters at most, because the rest may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// Nothing at all.
    #[error("the replica's URL is empty: write file:///path/to/replica, or the path of a folder")]
    Empty,
    /// A path where a URL has to be.
    #[error("the replica's URL has no scheme: write file:///path/to/replica")]
    NoScheme,
    /// A scheme that nobody knows.
    #[error(
        "unknown scheme {0}://: this build opens file:///path/to/replica, or the path of a folder"
    )]
    UnknownScheme(String),
    /// A scheme that Litestream opens and this build does not.
    #[error(
        "this build has no client for {0}://: it opens file:///path/to/replica, or the path of a \
         folder"
    )]
    NoClient(String),
    /// `file:path` without the slashes.
    #[error("a file URL has three slashes, as in file:///path/to/replica")]
    NoSlashes,
    /// `file://name/…`, which names a host and not a folder.
    #[error(
        "a file URL with the host {0:?}: write file:///path/to/replica for an absolute path, or \
         a relative path without file://"
    )]
    Host(String),
    /// Query parameters, by name.
    #[error("unknown parameters of a file URL: {}", .0.join(", "))]
    Parameters(Vec<String>),
    /// A `#`.
    #[error("a file URL has no fragment: write %23 for a # in the path")]
    Fragment,
    /// A `%` that is not followed by two hex digits, or by those of a zero byte.
    #[error("a malformed % in a file URL: write %25 for a percent sign")]
    Encoding,
}

impl LocationError {
    /// The error for a scheme that this build has no client for.
    pub(crate) fn no_client(scheme: &str) -> LocationError {
        let scheme = shown(scheme).to_ascii_lowercase();
        if LITESTREAM_SCHEMES.contains(&scheme.as_str()) {
            LocationError::NoClient(scheme)
        } else {
            LocationError::UnknownScheme(scheme)
        }
    }
}

/// Why there is no replica at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// There is nothing of this name.
    #[error("the folder does not exist")]
    Folder,
    /// The name is a file's.
    #[error("it is a file, not a folder")]
    NotAFolder,
    /// The folder is there, and no replica has been written to it.
    #[error("the folder has no ltx folder")]
    Ltx,
}

/// The scheme of a URL and what follows `://`.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let well_formed = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    well_formed.then_some((scheme, rest))
}

/// The folder of a file URL, from what follows its `file://`.
fn folder(rest: &str) -> Result<Location, LocationError> {
    if rest.contains('#') {
        return Err(LocationError::Fragment);
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !query.is_empty() {
        let names = query
            .split('&')
            .map(|pair| pair.split('=').next().unwrap_or_default());
        return Err(LocationError::Parameters(names.map(shown).collect()));
    }
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
        let host = host.rsplit('@').next().unwrap_or_default();
        return Err(LocationError::Host(shown(host)));
    }
    if path.is_empty() {
        return Err(LocationError::Empty);
    }
    let path = decode(path).ok_or(LocationError::Encoding)?;
    Ok(Location::Folder(path.into()))
}

/// As much of a part of a URL as a message needs, in characters that a terminal survives.
fn shown(part: &str) -> String {
    part.chars().filter(|c| !c.is_control()).take(60).collect()
}

fn decode(path: &str) -> Option<OsString> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        };
        if byte == 0 {
            return None;
        }
        decoded.push(byte);
    }
    Some(OsString::from_vec(decoded))
}

fn write_encoded(f: &mut fmt::Formatter<'_>, path: &[u8]) -> fmt::Result {
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// What can't be looked at is not called missing: the client's own error says more.
fn missing_folder(path: &Path) -> Option<Missing> {
    let level = path.join(Layout::Tree.folder(Level::RAW));
    let ltx = level.parent().expect("a level's folder is below the root");
    match (path.metadata(), ltx.metadata()) {
        (Ok(folder), _) if !folder.is_dir() => Some(Missing::NotAFolder),
        (Ok(_), Ok(ltx)) if ltx.is_dir() => None,
        (Ok(_), Ok(_)) => Some(Missing::Ltx),
        (Ok(_), Err(error)) if is_absent(&error) => Some(Missing::Ltx),
        (Err(error), _) if is_absent(&error) => Some(Missing::Folder),
        _ => None,
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, path: &str) {
        assert_eq!(text.parse(), Ok(Location::Folder(path.into())), "{text}");
    }

    #[track_caller]
    fn check_refused(text: &str, message: &str) {
        let error = text.parse::<Location>().expect_err(text);

        assert_eq!(error.to_string(), message, "{text}");
    }

    #[test]
    fn a_file_url_names_a_folder() {
        check("file:///var/backups/app", "/var/backups/app");
        check("FILE:///var", "/var");
        check("file://localhost/var", "/var");
        check("file:///var?", "/var");
        check("file:///a%20b/%25/%C3%A9/é", "/a b/%/é/é");
        check("file:///", "/");
    }

    #[test]
    fn a_plain_path_is_a_folder_as_it_stands() {
        check("/var/a%20b?c#d", "/var/a%20b?c#d");
        check("relative/path", "relative/path");
        check("./s3:thing", "./s3:thing");
        check("C:/x", "C:/x");
    }

    #[test]
    fn an_unknown_scheme_is_told_with_the_known_ones() {
        check_refused(
            "ftp://host/path",
            "unknown scheme ftp://: this build opens file:///path/to/replica, or the path of a \
             folder",
        );
    }

    #[test]
    fn a_scheme_of_litestreams_without_a_client_is_told_as_such() {
        for scheme in ["s3", "sftp"] {
            check_refused(
                &format!("{scheme}://bucket/path"),
                &format!(
                    "this build has no client for {scheme}://: it opens file:///path/to/replica, \
                     or the path of a folder"
                ),
            );
        }
    }

    #[test]
    fn a_file_url_that_litestream_would_misread_is_refused() {
        check_refused(
            "file://var/backups",
            "a file URL with the host \"var\": write file:///path/to/replica for an absolute \
             path, or a relative path without file://",
        );
        check_refused(
            "file:/var",
            "a file URL has three slashes, as in file:///path/to/replica",
        );
        check_refused(
            "file:///a#b",
            "a file URL has no fragment: write %23 for a # in the path",
        );
        for text in [
            "file:///a%",
            "file:///a%2",
            "file:///%zz",
            "file:///%+1",
            "file:///%00",
        ] {
            check_refused(
                text,
                "a malformed % in a file URL: write %25 for a percent sign",
            );
        }
    }

    #[test]
    fn unknown_parameters_are_named() {
        check_refused(
            "file:///a?endpoint=x&region",
            "unknown parameters of a file URL: endpoint, region",
        );
    }

    #[test]
    fn nothing_is_no_place() {
        for text in ["", "file://", "file://localhost"] {
            check_refused(
                text,
                "the replica's URL is empty: write file:///path/to/replica, or the path of a \
                 folder",
            );
        }
        assert_eq!(Location::from_url("/var"), Err(LocationError::NoScheme));
    }

    #[test]
    fn no_secret_of_a_url_is_shown() {
        for text in [
            "s3://hush:hush@bucket/hush?secret-access-key=hush",
            "ftp://hush:hush@host/hush?token=hush#hush",
            "file://hush:hush@host/hush",
            "file:///path?token=hush",
            "file:///hush#hush",
            "file:///hush%",
        ] {
            let error = text.parse::<Location>().expect_err(text);

            assert!(!error.to_string().contains("hush"), "{error}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn a_namespace_lies_below_its_place() {
        let location: Location = "file:///var".parse().unwrap();

        assert_eq!(location.join("a/b").to_string(), "file:///var/a/b");
    }

    #[test]
    fn what_is_missing_is_told() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| Location::Folder(root.path().join(name));
        std::fs::create_dir_all(root.path().join("replica/ltx")).unwrap();
        std::fs::create_dir(root.path().join("other")).unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();

        assert_eq!(at("replica").missing(), None);
        assert_eq!(at("other").missing(), Some(Missing::Ltx));
        assert_eq!(at("file").missing(), Some(Missing::NotAFolder));
        assert_eq!(at("file/below").missing(), Some(Missing::Folder));
        assert_eq!(at("nothing").missing(), Some(Missing::Folder));
    }

    proptest! {
        #[test]
        fn a_place_is_read_back_as_it_is_shown(name in "[^\\x00]{0,20}") {
            let location = Location::Folder(format!("/{name}").into());

            prop_assert_eq!(location.to_string().parse(), Ok(location));
        }

        #[test]
        fn any_text_is_a_place_or_an_error(text in "(file://)?.{0,40}") {
            let _ = text.parse::<Location>();
        }
    }
}
