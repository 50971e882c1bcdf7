//! A server's public key, as OpenSSH writes it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

/// A public key, such as `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI…`: what a file of a `.pub` key
/// holds, with its comment or without.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    blob: Vec<u8>,
}

/// A text is not a public key in the form of OpenSSH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKeyError(());

impl PublicKey {
    /// The key that a server has shown, or `None` where those bytes are none.
    pub(crate) fn from_blob(blob: &[u8]) -> Option<PublicKey> {
        algorithm(blob).map(|_| PublicKey {
            blob: blob.to_vec(),
        })
    }

    /// `ssh-ed25519`, for example.
    pub(crate) fn algorithm(&self) -> &str {
        algorithm(&self.blob).expect("a key is not made without")
    }

    pub(crate) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// `SHA256:` and 43 characters, as `ssh-keygen -l` shows it.
    pub(crate) fn fingerprint(&self) -> String {
        let digest = Sha256::digest(&self.blob);
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
    }
}

/// The name that a key begins with.
fn algorithm(blob: &[u8]) -> Option<&str> {
    let (len, rest) = blob.split_first_chunk::<4>()?;
    let name = rest.get(..u32::from_be_bytes(*len) as usize)?;
    let is_name = |byte: &u8| byte.is_ascii_graphic();
    let name = (!name.is_empty() && name.iter().all(is_name)).then_some(name)?;
    std::str::from_utf8(name).ok()
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<PublicKey, PublicKeyError> {
        let mut words = text.split_ascii_whitespace();
        let mut parse = || {
            let algorithm = words.next()?;
            let key = PublicKey::from_blob(&STANDARD.decode(words.next()?).ok()?)?;
            (key.algorithm() == algorithm).then_some(key)
        };
        parse().ok_or(PublicKeyError(()))
    }
}

/// As `known_hosts` has it.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), STANDARD.encode(&self.blob))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm(), self.fingerprint())
    }
}

impl fmt::Display for PublicKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a public key as OpenSSH writes it, such as `ssh-ed25519 AAAA…`")
    }
}

impl std::error::Error for PublicKeyError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `ssh-keygen`, which gave the fingerprint too.
    const KEY: &str = "ssh-ed25519 \
                       AAAAC3NzaC1lZDI1NTE5AAAAIJWY0Sc+IAt2oKbwYOQZ0YRXtGo0qzUQLNGYu7XYaIYD";

    #[test]
    fn a_key_is_shown_as_it_was_written() {
        let key: PublicKey = format!("{KEY} root@host\n").parse().unwrap();

        assert_eq!(key.to_string(), KEY);
        assert_eq!(key.algorithm(), "ssh-ed25519");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 !!!!",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJWY0Sc+IAt2oKbwYOQZ0YRXtGo0qzUQLNGYu7XYaIYD",
            "AAAAC3NzaC1lZDI1NTE5AAAAIJWY0Sc+IAt2oKbwYOQZ0YRXtGo0qzUQLNGYu7XYaIYD",
            "x AAAAAA==",
        ] {
            assert_eq!(
                text.parse::<PublicKey>(),
                Err(PublicKeyError(())),
                "{text} was taken"
            );
        }
    }
}
