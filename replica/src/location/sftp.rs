//! Replicas on an SFTP server: `sftp://user@host:port/path`.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::url::{self, IN_PATH, IN_USER, Parameters, Parts};
use super::{LocationError, Secret};

const SCHEME: &str = "sftp";
/// The port of SSH.
const PORT: u16 = 22;

/// A folder of an SFTP server, and what it takes to get there.
///
/// Holds what was written, in a URL or a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SftpLocation {
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    /// From the root of the server's file system on, or else from where a login begins.
    pub(crate) path: String,
    /// The file of a private key.
    pub(crate) key_path: Option<PathBuf>,
    /// The server's public key, as a line of an `authorized_keys` file.
    pub(crate) host_key: Option<String>,
    /// Whether any server is taken for the right one.
    pub(crate) skip_verify: Option<bool>,
    /// Whether the server can replace a file in one step.
    pub(crate) atomic_replace: Option<bool>,
}

impl SftpLocation {
    /// The folder of what follows `sftp://`.
    pub(super) fn parse(rest: &str) -> Result<SftpLocation, LocationError> {
        let parts = Parts::of(SCHEME, rest)?;
        let (host, port) = host(parts.host)?;
        let (user, password) = match parts
            .user
            .map(|user| user.split_once(':').unwrap_or((user, "")))
        {
            Some((user, password)) => (parts.text(user)?, parts.text(password)?),
            None => Default::default(),
        };
        if user.is_empty() {
            return Err(LocationError::NoUser);
        }
        if parts.path.is_empty() {
            return Err(LocationError::NoPath);
        }
        let mut location = SftpLocation {
            host,
            port,
            user,
            password: (!password.is_empty()).then(|| Secret::new(password)),
            path: parts.text(parts.path)?,
            ..SftpLocation::default()
        };
        let mut parameters = parts.parameters()?;
        location.configure(&mut parameters)?;
        parameters.finish()?;
        Ok(location)
    }

    /// The folder `path` of `host`, which a configuration names with its port or without.
    pub(crate) fn of_host(
        host: &str,
        user: &str,
        path: &str,
    ) -> Result<SftpLocation, LocationError> {
        let (host, port) = self::host(host)?;
        Ok(SftpLocation {
            host,
            port,
            user: user.to_owned(),
            path: path.into(),
            ..SftpLocation::default()
        })
    }

    /// Takes what `parameters` say over what was said before.
    pub(crate) fn configure(&mut self, parameters: &mut Parameters) -> Result<(), LocationError> {
        let key_path = parameters.take(&["key-path", "keyPath"])?;
        self.key_path = key_path.map(PathBuf::from).or(self.key_path.take());
        self.host_key = parameters
            .take(&["host-key", "hostKey"])?
            .or(self.host_key.take());
        let skip_verify = parameters.take_bool(&["skip-verify", "skipVerify"])?;
        self.skip_verify = skip_verify.or(self.skip_verify);
        let atomic_replace = parameters.take_bool(&["atomic-replace", "atomicReplace"])?;
        self.atomic_replace = atomic_replace.or(self.atomic_replace);
        // How Litestream writes is its own affair, and so is how this does.
        parameters.take_bool(&["concurrent-writes", "concurrentWrites"])?;
        Ok(())
    }

    pub(super) fn is_root(&self) -> bool {
        let mut segments = self.path.split('/');
        self.path.starts_with('/') && segments.all(|segment| matches!(segment, "" | "."))
    }

    /// Whether it is the same folder of the same login, whatever that is made with. What `..` leads
    /// to only the server knows.
    pub(super) fn is_same_place(&self, other: &SftpLocation) -> bool {
        fn place(location: &SftpLocation) -> (String, u16, &str, bool, Vec<&str>) {
            let segments = location.path.split('/');
            (
                location.host.to_ascii_lowercase(),
                location.port.unwrap_or(PORT),
                &location.user,
                location.path.starts_with('/'),
                segments.filter(|name| !matches!(*name, "" | ".")).collect(),
            )
        }
        place(self) == place(other)
    }

    pub(super) fn join(&self, namespace: &str) -> SftpLocation {
        let mut joined = self.clone();
        if !joined.path.ends_with('/') {
            joined.path.push('/');
        }
        joined.path.push_str(namespace);
        joined
    }
}

/// The host and the port of `host`, `host:port`, `[::1]` or `[::1]:port`.
fn host(text: &str) -> Result<(String, Option<u16>), LocationError> {
    let (host, port) = url::host_and_port(text).ok_or(LocationError::SftpHost)?;
    Ok((host.to_owned(), port))
}

/// A URL that gives the same folder. Holds no secret: whoever reads it back has to give those
/// anew.
impl fmt::Display for SftpLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}://")?;
        url::write_encoded(f, self.user.as_bytes(), IN_USER)?;
        match self.host.contains(':') {
            true => write!(f, "@[{}]", self.host)?,
            false => write!(f, "@{}", self.host)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if !self.path.starts_with('/') {
            // No URL means this: it is shown as `scp` writes it.
            f.write_str(":")?;
        }
        url::write_encoded(f, self.path.as_bytes(), IN_PATH)?;
        let key_path = self
            .key_path
            .as_ref()
            .map(|path| path.as_os_str().as_bytes());
        let yes_or_no = |value: Option<bool>| {
            value.map(|value| if value { b"true".as_slice() } else { b"false" })
        };
        let parameters = [
            ("key-path", key_path),
            ("host-key", self.host_key.as_ref().map(|key| key.as_bytes())),
            ("skip-verify", yes_or_no(self.skip_verify)),
            ("atomic-replace", yes_or_no(self.atomic_replace)),
        ];
        url::write_parameters(f, parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<SftpLocation, LocationError> {
        SftpLocation::parse(url.strip_prefix("sftp://").expect("an sftp URL"))
    }

    #[track_caller]
    fn check(url: &str, shown: &str) -> SftpLocation {
        let location = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));

        assert_eq!(location.to_string(), shown, "{url}");
        assert_eq!(
            parse(shown).as_ref(),
            Ok(&without_password(&location)),
            "{shown}"
        );
        location
    }

    fn without_password(location: &SftpLocation) -> SftpLocation {
        SftpLocation {
            password: None,
            ..location.clone()
        }
    }

    #[test]
    fn a_user_a_host_and_an_absolute_path() {
        let location = check("sftp://me@host/backups/app", "sftp://me@host/backups/app");

        assert_eq!(location.path, "/backups/app");
        assert_eq!((location.host.as_str(), location.port), ("host", None));
        check("sftp://me@127.0.0.1:2222/a", "sftp://me@127.0.0.1:2222/a");
        check("sftp://me@host:/a?", "sftp://me@host/a");
        check(
            "sftp://me@host/a%20b/%23c/%C3%A9",
            "sftp://me@host/a%20b/%23c/%C3%A9",
        );
    }

    #[test]
    fn a_host_may_be_an_ipv6_address() {
        let location = check("sftp://me@[::1]:2222/a", "sftp://me@[::1]:2222/a");

        assert_eq!((location.host.as_str(), location.port), ("::1", Some(2222)));
        check("sftp://me@[fe80::1]/a", "sftp://me@[fe80::1]/a");
    }

    #[test]
    fn a_password_is_decoded_kept_and_not_shown() {
        let location = check("sftp://me%40x:p%3Aa%2Fs%40s@host/a", "sftp://me%40x@host/a");

        assert_eq!(location.user, "me@x");
        assert_eq!(location.password, Some(Secret::new("p:a/s@s")));
        assert_eq!(
            parse("sftp://me:a:b@c@host/a").unwrap().password,
            Some(Secret::new("a:b@c"))
        );
        assert_eq!(parse("sftp://me:@host/a").unwrap().password, None);
    }

    #[test]
    fn keys_are_named_as_in_litestreams_configuration() {
        let location = check(
            "sftp://me@host/a?keyPath=/home/me/.ssh/id&host-key=ssh-ed25519%20AAAA%2BB&skipVerify=no",
            "sftp://me@host/a?key-path=/home/me/.ssh/id&host-key=ssh-ed25519%20AAAA%2BB\
             &skip-verify=false",
        );

        assert_eq!(location.key_path, Some("/home/me/.ssh/id".into()));
        assert_eq!(location.host_key.as_deref(), Some("ssh-ed25519 AAAA+B"));
        check(
            "sftp://me@host/a?atomicReplace=0",
            "sftp://me@host/a?atomic-replace=false",
        );
        check(
            "sftp://me@host/a?concurrent-writes=false",
            "sftp://me@host/a",
        );
    }

    #[test]
    fn what_can_not_be_reached_is_refused() {
        for (url, error) in [
            ("sftp://host/a", LocationError::NoUser),
            ("sftp://:hush@host/a", LocationError::NoUser),
            ("sftp://me@host", LocationError::NoPath),
            ("sftp://me@/a", LocationError::SftpHost),
            ("sftp:///a", LocationError::SftpHost),
            ("sftp://me@host:port/a", LocationError::SftpHost),
            ("sftp://me@host:0/a", LocationError::SftpHost),
            ("sftp://me@host:65536/a", LocationError::SftpHost),
            ("sftp://me@::1/a", LocationError::SftpHost),
            ("sftp://me@[::1]22/a", LocationError::SftpHost),
            ("sftp://me@[::1/a", LocationError::SftpHost),
            ("sftp://me@ho st/a", LocationError::SftpHost),
            ("sftp://me@host/a%", LocationError::Encoding("sftp")),
            ("sftp://m%zz@host/a", LocationError::Encoding("sftp")),
            ("sftp://me@host/a%FF", LocationError::Encoding("sftp")),
            ("sftp://me@host/a%00", LocationError::Encoding("sftp")),
            ("sftp://me@host/a#b", LocationError::Fragment("sftp")),
        ] {
            assert_eq!(parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn what_lies_below_a_folder_has_its_settings() {
        let location = parse("sftp://me:hush@host/a").unwrap();

        let below = location.join("b/c");

        assert_eq!(below.to_string(), "sftp://me@host/a/b/c");
        assert_eq!(below.password, location.password);
        assert!(parse("sftp://me@host//./").unwrap().is_root());
        assert!(!below.is_root());
    }

    #[test]
    fn a_folder_below_the_login_is_shown_as_scp_writes_it() {
        let location = SftpLocation::of_host("[::1]:22", "me", "backups/app").unwrap();

        assert_eq!(location.to_string(), "sftp://me@[::1]:22:backups/app");
    }
}
