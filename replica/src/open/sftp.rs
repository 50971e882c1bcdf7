//! A client of an SFTP server, of what was written and what the environment says.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use replica_core::ReplicaClient;
use replica_sftp::{HostKey, Login, PrivateKey, SftpClient, SftpConfig};

use super::OpenError;
use super::environment::Environment;
use crate::location::SftpLocation;

pub(super) fn client(
    location: &SftpLocation,
    environment: &Environment<'_>,
) -> Result<Arc<dyn ReplicaClient>, OpenError> {
    let config = config(location, environment)?;
    if let Some(path) = &location.key_path {
        // The server is asked first otherwise, and a typing error is told after that.
        File::open(path).map_err(|source| OpenError::File {
            path: path.clone(),
            source,
        })?;
    }
    Ok(Arc::new(SftpClient::new(config)?))
}

/// The secrets that a client is configured with.
pub(super) fn secrets(location: &SftpLocation) -> Vec<String> {
    let password = location.password.iter();
    password.map(|secret| secret.reveal().to_owned()).collect()
}

fn config(location: &SftpLocation, environment: &Environment<'_>) -> Result<SftpConfig, OpenError> {
    let mut config = SftpConfig::new(&location.host, &location.user, &location.path);
    config.port = location.port.unwrap_or(config.port);
    config.host_key = host_key(location, environment)?;
    config.logins = logins(location, environment)?;
    config.atomic_replace = location.atomic_replace.unwrap_or(config.atomic_replace);
    Ok(config)
}

fn host_key(location: &SftpLocation, environment: &Environment<'_>) -> Result<HostKey, OpenError> {
    if let Some(key) = &location.host_key {
        return match key.parse() {
            Ok(key) => Ok(HostKey::Key(key)),
            Err(_) => Err(OpenError::Setting {
                name: "host-key",
                why: "it is no public key, such as ssh-ed25519 AAAA… (in a URL, write %20 for the \
                      space and %2B for +)",
            }),
        };
    }
    if location.skip_verify == Some(true) {
        return Ok(HostKey::Unchecked);
    }
    let own = environment
        .get("HOME")
        .map(|home| PathBuf::from(home).join(".ssh/known_hosts"));
    // The last one is where an unknown host is said to belong.
    let files = [PathBuf::from("/etc/ssh/ssh_known_hosts")];
    Ok(HostKey::KnownHosts(files.into_iter().chain(own).collect()))
}

/// What was given is all that is tried; the agent is for those who gave nothing.
fn logins(location: &SftpLocation, environment: &Environment<'_>) -> Result<Vec<Login>, OpenError> {
    let key = location.key_path.clone().map(|path| Login::Key {
        key: PrivateKey::File(path),
        passphrase: None,
    });
    let password = location.password.as_ref();
    let password = password.map(|password| Login::Password(password.reveal().to_owned()));
    let logins: Vec<_> = key.into_iter().chain(password).collect();
    if !logins.is_empty() {
        return Ok(logins);
    }
    match environment.get("SSH_AUTH_SOCK") {
        Some(_) => Ok(vec![Login::Agent]),
        None => Err(OpenError::NoLogin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 \
                       AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn configure(url: &str, variables: &[(&str, &str)]) -> Result<SftpConfig, OpenError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let crate::Location::Sftp(location) = url.parse().expect(url) else {
            panic!("{url}");
        };
        config(&location, &Environment::new(&variable))
    }

    #[test]
    fn what_was_written_is_what_is_asked_for() {
        let key = KEY.replace(' ', "%20").replace('+', "%2B");
        let url = format!("sftp://me:p%20w@[::1]:2222/a%20b?key-path=/id&host-key={key}");

        let config = configure(&url, &[("SSH_AUTH_SOCK", "/agent")]).unwrap();

        assert_eq!((config.host.as_str(), config.port), ("::1", 2222));
        assert_eq!((config.user.as_str(), config.root.as_str()), ("me", "/a b"));
        assert_eq!(config.host_key, HostKey::Key(KEY.parse().unwrap()));
        let key = Login::Key {
            key: PrivateKey::File("/id".into()),
            passphrase: None,
        };
        assert_eq!(config.logins, [key, Login::Password("p w".into())]);
        assert!(config.atomic_replace);
    }

    #[test]
    fn without_a_host_key_the_known_hosts_are_asked() {
        let known = configure(
            "sftp://me:pw@h/a?atomic-replace=false",
            &[("HOME", "/home/me")],
        );
        let unchecked = configure("sftp://me:pw@h/a?skip-verify=true", &[]);

        let known = known.unwrap();
        assert_eq!(
            known.host_key,
            HostKey::KnownHosts(vec![
                "/etc/ssh/ssh_known_hosts".into(),
                "/home/me/.ssh/known_hosts".into()
            ])
        );
        assert_eq!(known.port, 22);
        assert!(!known.atomic_replace);
        assert_eq!(unchecked.unwrap().host_key, HostKey::Unchecked);
    }

    #[test]
    fn the_secrets_of_a_place_are_known() {
        let Ok(crate::Location::Sftp(location)) = "sftp://me:hu%20sh@h/a".parse() else {
            panic!("an sftp URL");
        };

        assert_eq!(secrets(&location), ["hu sh"]);
    }

    #[test]
    fn the_agent_is_for_those_who_gave_nothing() {
        let agent = configure("sftp://me@h/a", &[("SSH_AUTH_SOCK", "/agent")]).unwrap();
        let nothing = configure("sftp://me@h/a", &[("SSH_AUTH_SOCK", "")]).unwrap_err();

        assert_eq!(agent.logins, [Login::Agent]);
        assert_eq!(
            nothing.to_string(),
            "nothing to log in with: give the URL a password or a key-path, or start an agent \
             ($SSH_AUTH_SOCK)"
        );
    }

    #[test]
    fn a_key_that_is_not_there_is_told_before_the_server_is_asked() {
        let url = "sftp://me@h/a?skip-verify=true&key-path=/nowhere/id";
        let location: crate::Location = url.parse().expect(url);

        let error = location.client().expect_err("there is no such key");

        assert_eq!(error.to_string(), "can't read /nowhere/id");
    }

    #[test]
    fn a_host_key_that_is_none_is_told() {
        let error = configure("sftp://me:pw@h/a?host-key=hush", &[]).unwrap_err();

        assert!(
            error
                .to_string()
                .starts_with("host-key: it is no public key"),
            "{error}"
        );
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}
