//! What files of known hosts say of one host.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::public_key::PublicKey;

/// What is known of a host's keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its keys, each with where it stands.
    pub(crate) keys: Vec<(PublicKey, Place)>,
    /// Keys that are not to be trusted any more.
    pub(crate) revoked: Vec<PublicKey>,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// What a host's key is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    Right,
    /// Nothing is known of the host.
    Unknown,
    /// The host is known by other keys, this one among them.
    Changed(&'a (PublicKey, Place)),
    Revoked,
}

impl Known {
    /// Adds what `text` says of `address`, a host or `[host]:port`. `is_hashed_host` tells
    /// whether a hashed name and this key are those of the host.
    pub(crate) fn read(
        &mut self,
        text: &str,
        file: &str,
        address: &str,
        is_hashed_host: impl Fn(&str, &PublicKey) -> bool,
    ) {
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace().peekable();
            let marker = words.next_if(|word| word.starts_with('@'));
            let Some(hosts) = words.next().filter(|hosts| !hosts.starts_with('#')) else {
                continue;
            };
            let (Some(algorithm), Some(blob)) = (words.next(), words.next()) else {
                continue;
            };
            let Some(key) = STANDARD
                .decode(blob)
                .ok()
                .and_then(|blob| PublicKey::from_blob(&blob))
                .filter(|key| key.algorithm() == algorithm)
            else {
                continue;
            };
            let is_meant = match hosts.starts_with('|') {
                true => is_hashed_host(hosts, &key),
                false => is_among(hosts, address),
            };
            if !is_meant {
                continue;
            }
            match marker {
                None => self.keys.push((
                    key,
                    Place {
                        file: file.to_owned(),
                        line: index + 1,
                    },
                )),
                Some("@revoked") => self.revoked.push(key),
                // A certificate authority's key is no host's.
                Some(_) => {}
            }
        }
    }

    pub(crate) fn judge(&self, shown: &PublicKey) -> Verdict<'_> {
        if self.revoked.contains(shown) {
            return Verdict::Revoked;
        }
        if self.keys.iter().any(|(key, _)| key == shown) {
            return Verdict::Right;
        }
        let same_kind = |(key, _): &&(PublicKey, Place)| key.algorithm() == shown.algorithm();
        let other = self.keys.iter().find(same_kind).or(self.keys.first());
        other.map_or(Verdict::Unknown, Verdict::Changed)
    }
}

/// Whether `address` is one of `patterns`, and none that is excepted.
fn is_among(patterns: &str, address: &str) -> bool {
    let mut is_among = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(pattern, address) => return false,
            Some(_) => {}
            None => is_among |= matches(pattern, address),
        }
    }
    is_among
}

/// Whether `pattern`, where `*` is anything and `?` any character, is all of `text`. Takes no
/// longer than their lengths multiplied.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || byte.eq_ignore_ascii_case(&text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // The last star takes one more character.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 \
                       AAAAC3NzaC1lZDI1NTE5AAAAIJWY0Sc+IAt2oKbwYOQZ0YRXtGo0qzUQLNGYu7XYaIYD";
    const OTHER: &str = "ssh-ed25519 \
                         AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn key(text: &str) -> PublicKey {
        text.parse().unwrap()
    }

    fn known(text: &str, address: &str) -> Known {
        let mut known = Known::default();
        known.read(text, "known_hosts", address, |hosts, _| {
            hosts == "|1|of|example.com"
        });
        known
    }

    #[test]
    fn a_host_is_known_by_its_name_its_port_or_a_pattern() {
        for (hosts, address, is_known) in [
            ("example.com", "example.com", true),
            ("EXAMPLE.com", "example.com", true),
            ("example.com", "example.org", false),
            ("example.com", "[example.com]:2222", false),
            ("[example.com]:2222", "[example.com]:2222", true),
            ("other,example.com", "example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com,!b.example.com", "b.example.com", false),
            ("192.0.2.?", "192.0.2.7", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxx", false),
            ("|1|of|example.com", "example.com", true),
            ("|1|of|another", "example.com", false),
        ] {
            let known = known(&format!("# a comment\n\n{hosts} {ONE} me@here\n"), address);

            assert_eq!(!known.keys.is_empty(), is_known, "{hosts} for {address}");
            if is_known {
                assert_eq!(known.judge(&key(ONE)), Verdict::Right);
                assert_eq!(known.keys[0].1.line, 3);
            }
        }
    }

    #[test]
    fn another_key_than_the_known_one_is_a_changed_one() {
        let known = known(&format!("example.com {ONE}"), "example.com");

        assert!(matches!(known.judge(&key(OTHER)), Verdict::Changed(_)));
        assert_eq!(Known::default().judge(&key(OTHER)), Verdict::Unknown);
    }

    #[test]
    fn a_revoked_key_is_not_right_even_where_it_is_known() {
        let text = format!("example.com {ONE}\n@revoked * {ONE}\n@cert-authority * {OTHER}");

        let known = known(&text, "example.com");

        assert_eq!(known.judge(&key(ONE)), Verdict::Revoked);
        assert_eq!(known.keys.len(), 1);
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        let text = format!(
            "example.com\nexample.com ssh-rsa\n|\n@\nexample.com ssh-rsa é\n\
                            example.com ssh-rsa {}",
            ONE.split(' ').nth(1).unwrap()
        );

        assert_eq!(known(&text, "example.com"), Known::default());
    }
}
