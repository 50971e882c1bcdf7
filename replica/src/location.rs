//! Where a replica is kept, as a person writes it.

mod s3;
mod secret;
mod sftp;
mod url;

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use replica_core::{Layout, Level, ReplicaClient};

use crate::nearest::nearest;
use crate::{OpenError, open, stack};
use url::{IN_PATH, Parts};

pub use s3::S3Location;
#[cfg(feature = "s3")]
pub(crate) use s3::endpoint;
pub(crate) use secret::Secret;
pub use sftp::SftpLocation;
pub(crate) use url::Parameters;

/// Where a replica is kept.
///
/// It is written as Litestream writes it: a URL such as `s3://bucket/prefix`,
/// `sftp://user@host/path` or `file:///var/backups/app`, or the path of a folder, absolute or
/// relative. [`FromStr`] takes all of them, [`from_url`](Location::from_url) URLs only. In a URL,
/// `%20` stands for a space and so on; a path is taken as it is.
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
///
/// # Parameters
///
/// A bucket takes these behind the `?`, each in Litestream's other spelling too (`forcePathStyle`
/// and so on); `provider` is not one of Litestream's. One that is not known is an error.
///
/// | name | what it says |
/// | --- | --- |
/// | `endpoint` | the host of a store other than AWS; without a scheme it is `http` for one nearby and `https` for others |
/// | `region` | the region; without it the endpoint's, where its name has it, of AWS `$AWS_REGION`, and of others the provider's, or `us-east-1` |
/// | `provider` | the store's name, where its host does not tell it: `minio`, `ceph`, `garage` (whose region is then `garage`), `seaweedfs`, or another of [`PROVIDERS`] |
/// | `force-path-style` | whether the bucket is part of the path, and not of the host |
/// | `skip-verify` | whether any TLS certificate will do |
/// | `part-size`, `concurrency` | how large the parts of a large file are, and how many are under way at once |
/// | `storage-class` | the storage class of what is written |
/// | `sse-customer-key`, `sse-customer-algorithm` | a key of one's own, in base64, that the store encrypts with |
/// | `sse-kms-key-id` | the key of AWS KMS that the store encrypts with |
///
/// `sign-payload`, `require-content-md5` and `sse-customer-key-md5` are accepted for Litestream's
/// sake and change nothing: every request is signed with the checksum of its body, an upload to AWS
/// carries it in a header too, as a bucket with Object Lock demands, and the checksum of a key
/// follows from the key.
///
/// The keys come from `$AWS_ACCESS_KEY_ID`, `$AWS_SECRET_ACCESS_KEY` and `$AWS_SESSION_TOKEN`, or
/// from Litestream's `$LITESTREAM_ACCESS_KEY_ID` and `$LITESTREAM_SECRET_ACCESS_KEY`.
///
/// An SFTP server takes these. Litestream has the first two in its configuration only.
///
/// | name | what it says |
/// | --- | --- |
/// | `key-path` | the file of a private key; `$SSH_AUTH_SOCK`'s agent is asked too |
/// | `host-key` | the server's public key, as a line of OpenSSH; without it `known_hosts` knows |
/// | `skip-verify` | whether any server is taken for the right one |
/// | `atomic-replace` | `false` for a server that can't replace a file in one step (it lacks `posix-rename@openssh.com`) |
///
/// A `+` in a parameter is a space: write `%2B`.
///
/// [`PROVIDERS`]: https://docs.rs/replica-s3/latest/replica_s3/providers/constant.PROVIDERS.html
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Location {
    /// A folder of a local file system.
    Folder(PathBuf),
    /// A prefix in a bucket of S3, or of a store that speaks its protocol.
    S3(Box<S3Location>),
    /// A folder of an SFTP server.
    Sftp(Box<SftpLocation>),
}

impl Location {
    /// The place that `url` names: a URL, not a path.
    pub fn from_url(url: &str) -> Result<Location, LocationError> {
        let Some((scheme, rest)) = url::split_scheme(url) else {
            return Err(if url.is_empty() {
                LocationError::Empty
            } else {
                LocationError::NoScheme
            });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => folder(rest),
            "s3" => Ok(Location::S3(Box::new(S3Location::parse(rest)?))),
            "sftp" => Ok(Location::Sftp(Box::new(SftpLocation::parse(rest)?))),
            _ => Err(LocationError::no_client(scheme)),
        }
    }

    /// Whether `text` is written as a URL, whatever its scheme, and not as a path.
    pub fn is_url(text: &str) -> bool {
        url::split_scheme(text).is_some()
    }

    /// The scheme of the client that it opens with.
    pub fn scheme(&self) -> &'static str {
        match self {
            Location::Folder(_) => "file",
            Location::S3(_) => "s3",
            Location::Sftp(_) => "sftp",
        }
    }

    /// A client rooted here with the [canonical layers](crate::stack()) around it.
    ///
    /// Costs no I/O but the reading of a key's file: a place that does not exist shows itself at
    /// the first call. What the location does not say, such as the keys of a bucket, comes from
    /// the environment.
    ///
    /// # Errors
    ///
    /// A setting that makes no sense, or a store that this build has no client for.
    pub fn open(&self) -> Result<Arc<dyn ReplicaClient>, OpenError> {
        Ok(stack(self.client()?))
    }

    /// The bare client of the store, without a layer: what a conformance run judges.
    ///
    /// # Errors
    ///
    /// As [`open`](Location::open).
    pub fn client(&self) -> Result<Arc<dyn ReplicaClient>, OpenError> {
        open::client(self)
    }

    /// The secrets that a client of this place is given, by the location or the environment: for
    /// whoever makes sure that they are never shown, as a conformance run does.
    pub fn secrets(&self) -> Vec<String> {
        open::secrets(self)
    }

    /// The place named `namespace` below this one.
    #[must_use]
    pub fn join(&self, namespace: &str) -> Location {
        match self {
            Location::Folder(path) => Location::Folder(path.join(namespace)),
            Location::S3(location) => Location::S3(Box::new(location.join(namespace))),
            Location::Sftp(location) => Location::Sftp(Box::new(location.join(namespace))),
        }
    }

    /// Whether nothing is above this place: the root of a file system, or a whole bucket.
    pub fn is_root(&self) -> bool {
        match self {
            Location::Folder(path) => path
                .canonicalize()
                .is_ok_and(|folder| folder.parent().is_none()),
            Location::S3(location) => location.is_root(),
            Location::Sftp(location) => location.is_root(),
        }
    }

    /// Whether `other` is the same place, written in the same way or in another: a folder may go by
    /// several names, and by links. Nobody is asked of a bucket or a server: its host may be written
    /// in capitals, and its port be the usual one. Of what stands behind the `?` only an endpoint and
    /// a region count.
    pub fn is_same_place(&self, other: &Location) -> bool {
        match (self, other) {
            (Location::Folder(one), Location::Folder(other)) => real(one) == real(other),
            (Location::S3(one), Location::S3(other)) => one.is_same_place(other),
            (Location::Sftp(one), Location::Sftp(other)) => one.is_same_place(other),
            _ => false,
        }
    }

    /// How far apart files should be here at least, where nobody says otherwise: a second in a
    /// bucket, whose requests are paid for, as Litestream has it everywhere; 50 ms elsewhere. What is
    /// committed after a while goes at once in any case.
    pub fn window(&self) -> Duration {
        match self {
            Location::S3(_) => Duration::from_secs(1),
            Location::Folder(_) | Location::Sftp(_) => Duration::from_millis(50),
        }
    }

    /// Whether any server is taken for the right one, because `skip-verify` says so: a person
    /// should be warned.
    pub fn is_unverified(&self) -> bool {
        match self {
            Location::Folder(_) => false,
            Location::S3(location) => location.skip_verify == Some(true),
            // A key that is given is what counts, whatever else is said.
            Location::Sftp(location) => {
                location.skip_verify == Some(true) && location.host_key.is_none()
            }
        }
    }

    /// Why there is no replica here, where a look at the place tells.
    ///
    /// A store answers an empty listing for a replica that was never written, as it must. This is
    /// for the person who mistyped its name. Nobody but a local file system is asked.
    pub fn missing(&self) -> Option<Missing> {
        match self {
            Location::Folder(path) => missing_folder(path),
            Location::S3(_) | Location::Sftp(_) => None,
        }
    }
}

/// Schemes that Litestream opens and this build does not.
const LITESTREAM_SCHEMES: [&str; 6] = ["gs", "abs", "webdav", "webdavs", "nats", "oss"];

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
        // A folder of such a name would be made in silence: `./s3:` and `./s3//` still name one.
        let begins = |scheme: &&str| {
            let start = text.get(..scheme.len()).unwrap_or_default();
            let rest = text.get(scheme.len()..).unwrap_or_default();
            start.eq_ignore_ascii_case(scheme) && (rest.starts_with(':') || rest.starts_with("//"))
        };
        if let Some(scheme) = ["file", "s3", "sftp"].into_iter().find(begins) {
            return Err(LocationError::NoSlashes(scheme));
        }
        match LITESTREAM_SCHEMES.into_iter().find(begins) {
            Some(scheme) => Err(LocationError::no_client(scheme)),
            None => Ok(Location::Folder(PathBuf::from(text))),
        }
    }
}

/// The URL of an absolute place, and the path of a relative one: [`FromStr`] takes both back.
/// Holds no secret.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(path) if path.is_absolute() => {
                f.write_str("file://")?;
                url::write_encoded(f, path.as_os_str().as_bytes(), IN_PATH)
            }
            Location::Folder(path) => path.display().fmt(f),
            Location::S3(location) => location.fmt(f),
            Location::Sftp(location) => location.fmt(f),
        }
    }
}

/// A text that names no place. Shows of a URL its scheme, host and the names of its parameters at
/// most, because the rest may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// Nothing at all.
    #[error("the replica's URL is empty: write {FORMS}")]
    Empty,
    /// A path where a URL has to be.
    #[error("the replica's URL has no scheme: write {FORMS}")]
    NoScheme,
    /// A scheme that nobody knows.
    #[error("unknown scheme {0}://: write {FORMS}, or the path of a folder")]
    UnknownScheme(String),
    /// A scheme that Litestream opens and this library does not.
    #[error("there is no client for {0}:// yet: write {FORMS}, or the path of a folder")]
    NoClient(String),
    /// A scheme without the whole of the colon and the slashes.
    #[error("{}", match *.0 {
        "file" => "a file URL has a colon and three slashes, as in file:///path/to/replica",
        "s3" => "an s3 URL has a colon and two slashes, as in s3://bucket/prefix",
        _ => "an sftp URL has a colon and two slashes, as in sftp://user@host/path",
    })]
    NoSlashes(&'static str),
    /// `file://name/…`, which names a host and not a folder.
    #[error(
        "a file URL with the host {0:?}: write file:///path/to/replica for an absolute path, or \
         a relative path without file://"
    )]
    Host(String),
    /// Parameters behind the `?` that nobody knows.
    #[error("unknown parameters of a URL with {scheme}://: {}", Unknown(.unknown, .known))]
    Parameters {
        /// The scheme.
        scheme: &'static str,
        /// Their names.
        unknown: Vec<String>,
        /// The names that there are.
        known: Vec<&'static str>,
    },
    /// A parameter that is given more than once, in one spelling or in two.
    #[error("the URL's parameter {0} is given more than once")]
    Repeated(&'static str),
    /// A parameter whose value is not of its form.
    #[error("the value of {name} is not what it should be: {form}")]
    Value {
        /// The parameter's name.
        name: &'static str,
        /// What its values are.
        form: &'static str,
    },
    /// A `#`.
    #[error("a URL with {0}:// has no fragment: write %23 for a #")]
    Fragment(&'static str),
    /// A `%` that is not followed by two hex digits, or by those of a zero byte or of no text.
    #[error("a malformed % in a URL with {0}://: write %25 for a percent sign")]
    Encoding(&'static str),
    /// An s3 URL whose host is not the name of a bucket, or names none.
    #[error(
        "the host of the s3 URL names no bucket: write s3://bucket/prefix, and another provider \
         behind it as ?endpoint=host"
    )]
    Bucket,
    /// The ARN of an access point.
    #[error(
        "the ARN of an access point can't be opened: write its alias, which ends in -s3alias, as \
         the bucket"
    )]
    AccessPoint,
    /// An s3 URL with something before an `@`.
    #[error(
        "an s3 URL has no user and no password: put the keys into $AWS_ACCESS_KEY_ID and \
         $AWS_SECRET_ACCESS_KEY"
    )]
    S3User,
    /// An sftp URL whose host is none.
    #[error("the host of the sftp URL is none: write sftp://user@host:port/path")]
    SftpHost,
    /// An sftp URL without a user.
    #[error("the sftp URL names no user: write sftp://user@host/path")]
    NoUser,
    /// An sftp URL without a path.
    #[error("the sftp URL names no folder: write sftp://user@host/path")]
    NoPath,
}

const FORMS: &str = "s3://bucket/prefix, sftp://user@host/path or file:///path/to/replica";

/// The parameters that there are not, each with the one that may be meant, and those that there are.
struct Unknown<'a>(&'a [String], &'a [&'static str]);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unknown(unknown, known) = self;
        for (index, name) in unknown.iter().enumerate() {
            let delimiter = if index == 0 { "" } else { ", " };
            write!(f, "{delimiter}{name}")?;
            if let Some(near) = nearest(name, known.iter().copied()) {
                write!(f, " (is it {near}?)")?;
            }
        }
        match known {
            [] => f.write_str(" (it has none)"),
            names => write!(f, "; there are {}", names.join(", ")),
        }
    }
}

impl LocationError {
    /// The error for a scheme that there is no client for.
    pub(crate) fn no_client(scheme: &str) -> LocationError {
        let scheme = url::shown(scheme).to_ascii_lowercase();
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

/// The folder of a file URL, from what follows its `file://`.
fn folder(rest: &str) -> Result<Location, LocationError> {
    let parts = Parts::of("file", rest)?;
    parts.parameters()?.finish()?;
    if !parts.host.is_empty() && !parts.host.eq_ignore_ascii_case("localhost") {
        return Err(LocationError::Host(url::shown(parts.host)));
    }
    if parts.path.is_empty() {
        return Err(LocationError::Empty);
    }
    Ok(Location::Folder(parts.path()?.into()))
}

/// `path` without links and dots, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = path.ancestors().find_map(|above| {
        let real = above.canonicalize().ok()?;
        let rest = path.strip_prefix(above).ok()?;
        Some(real.components().chain(rest.components()).collect())
    });
    found.unwrap_or(path)
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
            "unknown scheme ftp://: write s3://bucket/prefix, sftp://user@host/path or \
             file:///path/to/replica, or the path of a folder",
        );
    }

    #[test]
    fn a_scheme_of_litestreams_without_a_client_is_told_as_such() {
        for scheme in ["gs", "webdavs"] {
            check_refused(
                &format!("{scheme}://bucket/path"),
                &format!(
                    "there is no client for {scheme}:// yet: write s3://bucket/prefix, \
                     sftp://user@host/path or file:///path/to/replica, or the path of a folder"
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
            "a file URL has a colon and three slashes, as in file:///path/to/replica",
        );
        check_refused(
            "file:///a#b",
            "a URL with file:// has no fragment: write %23 for a #",
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
                "a malformed % in a URL with file://: write %25 for a percent sign",
            );
        }
    }

    /// `s3//bucket/app` was once replicated to, in silence, as a folder below the working one.
    #[test]
    fn a_url_without_its_colon_or_a_slash_is_no_folder() {
        for (text, message) in [
            (
                "s3//b/a",
                "an s3 URL has a colon and two slashes, as in s3://bucket/prefix",
            ),
            (
                "S3:/b/a",
                "an s3 URL has a colon and two slashes, as in s3://bucket/prefix",
            ),
            (
                "sftp//h/a",
                "an sftp URL has a colon and two slashes, as in sftp://user@host/path",
            ),
            (
                "file//a",
                "a file URL has a colon and three slashes, as in file:///path/to/replica",
            ),
            (
                "gs//b/a",
                "there is no client for gs:// yet: write s3://bucket/prefix, \
                 sftp://user@host/path or file:///path/to/replica, or the path of a folder",
            ),
        ] {
            check_refused(text, message);
        }
        for path in ["./s3//b", "s3/b", "s3x//b", "file", "s3"] {
            check(path, path);
        }
    }

    #[test]
    fn unknown_parameters_are_named() {
        check_refused(
            "file:///a?endpoint=x&region",
            "unknown parameters of a URL with file://: endpoint, region (it has none)",
        );
    }

    #[test]
    fn nothing_is_no_place() {
        for text in ["", "file://", "file://localhost"] {
            check_refused(
                text,
                "the replica's URL is empty: write s3://bucket/prefix, sftp://user@host/path or \
                 file:///path/to/replica",
            );
        }
        assert_eq!(Location::from_url("/var"), Err(LocationError::NoScheme));
    }

    #[test]
    fn no_secret_of_a_url_is_shown() {
        for text in [
            "s3://hush:hush@bucket/path",
            "s3://bucket/path?secret-access-key=hush",
            "s3://bucket/path?region=hush&region=hush",
            "s3://bucket/path?endpoint=https://hush:hush@host",
            "s3://bucket/path?to/hush@host/path",
            "s3://bucket/path?part-size=hush",
            "s3://bucket/hush%",
            "sftp://hush:hush@ho st/path",
            "sftp://hush:hush@host/hush#hush",
            "sftp://hush:hush@host",
            "sftp://hush:hush%@host/path",
            "sftp://:hush@host/path",
            "sftp://hush:hush@host/path?password=hush",
            "gs://hush:hush@bucket/hush?key=hush",
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
    fn no_secret_of_a_place_is_shown() {
        for text in [
            "s3://bucket/path?sse-customer-key=hush",
            "sftp://me:hush@host/path",
        ] {
            let location: Location = text.parse().expect(text);

            assert!(!location.to_string().contains("hush"), "{location}");
            assert!(!format!("{location:#?}").contains("hush"), "{location:#?}");
        }
    }

    #[test]
    fn only_a_server_that_nobody_checks_is_warned_of() {
        for (text, is_unverified) in [
            ("s3://b/p?skip-verify=true", true),
            ("s3://b/p", false),
            ("sftp://me@h/a?skip-verify=true", true),
            (
                "sftp://me@h/a?skip-verify=true&host-key=ssh-ed25519%20AAAA",
                false,
            ),
            ("/a", false),
        ] {
            let location: Location = text.parse().expect(text);

            assert_eq!(location.is_unverified(), is_unverified, "{text}");
        }
    }

    #[test]
    fn a_namespace_lies_below_its_place() {
        let location: Location = "file:///var".parse().unwrap();

        assert_eq!(location.join("a/b").to_string(), "file:///var/a/b");
    }

    #[test]
    fn a_place_is_the_same_under_another_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| Location::Folder(folder.path().join(name));
        let real = folder.path().join("real");
        std::fs::create_dir(&real).expect("a folder can be made");
        std::os::unix::fs::symlink(&real, folder.path().join("link")).expect("a link can be made");

        for (one, other, is_same) in [
            ("real", "link", true),
            ("real", "./real/", true),
            ("real/new/er", "link/new/er", true),
            ("real/new", "link/newer", false),
            ("new", "real", false),
        ] {
            assert_eq!(at(one).is_same_place(&at(other)), is_same, "{one} {other}");
        }
    }

    #[test]
    fn a_place_of_a_store_is_the_same_in_another_spelling() {
        for (one, other, is_same) in [
            ("s3://b/a", "s3://b//a%2F?part-size=8MiB", true),
            ("s3://b", "S3://b/?storage-class=GLACIER", true),
            ("s3://b/a", "s3://b/a?region=eu", true),
            ("s3://b/a?region=us", "s3://b/a?region=eu", false),
            (
                "s3://b/a?endpoint=Host",
                "s3://b/a?endpoint=https://host:443/",
                true,
            ),
            (
                "s3://b/a?endpoint=http://h:80",
                "s3://b/a?endpoint=http://h",
                true,
            ),
            (
                "s3://b/a?endpoint=http://h:443",
                "s3://b/a?endpoint=http://h",
                false,
            ),
            (
                "s3://b/a?endpoint=http://h/x",
                "s3://b/a?endpoint=http://h/X",
                false,
            ),
            ("s3://b/a?endpoint=h", "s3://b/a", false),
            ("s3://b/a", "s3://b/A", false),
            ("sftp://me@host/a", "sftp://me:hush@HOST:22//./a/", true),
            ("sftp://me@host/", "sftp://me@host//", true),
            ("sftp://me@host/a", "sftp://me@host:2222/a", false),
            ("sftp://me@host/a", "sftp://you@host/a", false),
            ("sftp://me@host/a", "sftp://me@host/a/../a", false),
            ("sftp://me@b/a", "s3://b/a", false),
        ] {
            let at = |url: &str| url.parse::<Location>().expect(url);

            assert_eq!(at(one).is_same_place(&at(other)), is_same, "{one} {other}");
            assert_eq!(at(other).is_same_place(&at(one)), is_same, "{other} {one}");
        }
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
        fn any_text_is_a_place_that_is_read_back_or_an_error(
            text in "(file|s3|sftp)://(me(:[a-z%0-9]{0,4})?@)?([a-z.]{0,12}|\\[::1\\])(:[0-9]{0,5})?(/.{0,20})?(\\?.{0,30})?"
        ) {
            if let Ok(location) = text.parse::<Location>() {
                let shown = location.to_string();
                let again: Location = shown.parse().expect(&shown);
                prop_assert_eq!(again.to_string(), shown);
            }
        }

        #[test]
        fn any_text_at_all_is_a_place_or_an_error(text in "((file|s3|sftp)://)?.{0,40}") {
            let _ = text.parse::<Location>();
        }

        #[test]
        fn no_secret_is_shown_wherever_it_stands(
            text in "(file|s3|sftp)://(HUSH:HUSH@)?b(/HUSH)?(#HUSH)?(\\?(region|endpoint|part-size|skip-verify|host-key|sse-customer-key)=[^&]?HUSH(&token=HUSH)?)?(#HUSH)?"
        ) {
            if let Err(error) = text.parse::<Location>() {
                prop_assert!(!format!("{error} {error:?}").contains("HUSH"), "{}", error);
            }
        }
    }
}
