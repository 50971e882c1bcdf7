//! Which keys a configuration may have where, and what comes of them. No I/O.

use std::fmt;
use std::path::PathBuf;

use super::Fault;
use super::yaml::{Key, Replica, Tree};
use crate::nearest::nearest;

/// A setting of Litestream that nothing comes of here, though a configuration has it. Nothing is
/// kept any worse for that.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassedOver {
    /// The configuration.
    pub path: PathBuf,
    /// Its name.
    pub key: &'static str,
    /// Its line there, from 1.
    pub line: u64,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PassedOver { path, key, line } = self;
        write!(
            f,
            "{}: line {line}: {key} is a setting of Litestream that is not supported, and is passed \
             over",
            path.display()
        )
    }
}

/// A key that nothing good would come of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    line: u64,
    /// None where it is better not shown: it is no word, and may be part of a secret.
    name: Option<String>,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// Nobody knows it; it looks like this one, if like any.
    Unknown(Option<&'static str>),
    /// It is known elsewhere, and nowhere else.
    Misplaced(Vec<&'static str>),
    /// It can't be passed over, and is not supported.
    Refused(&'static str),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("a key that is no word");
        write!(f, "line {}: {name}: ", self.line)?;
        match &self.why {
            Why::Unknown(None) => f.write_str("there is no such setting here"),
            Why::Unknown(Some(near)) => write!(f, "there is no such setting: is it {near}?"),
            Why::Misplaced(places) => {
                let places = places.join(" or ");
                write!(f, "it has no effect here: it belongs {places}")
            }
            Why::Refused(reason) => f.write_str(reason),
        }
    }
}

/// What comes of the keys of a configuration.
#[derive(Debug, Default)]
pub(super) struct Judged {
    path: PathBuf,
    pub(super) unfit: Option<Unfit>,
    pub(super) passed_over: Vec<PassedOver>,
}

impl Judged {
    /// Judges all keys of `document`, which is at `path`.
    pub(super) fn new(document: &Tree, path: PathBuf) -> Judged {
        let mut judged = Judged {
            path,
            ..Judged::default()
        };
        judged.judge(document, Section::Top);
        judged
    }

    /// The first one that is unfit, as a fault.
    pub(super) fn fault(&self) -> Result<(), Fault> {
        match &self.unfit {
            Some(unfit) => Err(Fault::Key(unfit.clone())),
            None => Ok(()),
        }
    }

    fn judge(&mut self, tree: &Tree, section: Section) {
        match tree {
            Tree::Map(entries) => {
                for (key, value) in entries {
                    self.judge_key(key, value, section);
                }
            }
            Tree::List(entries) => {
                for entry in entries {
                    self.judge(entry, section);
                }
            }
            Tree::Value { .. } => {}
        }
    }

    fn judge_key(&mut self, key: &Key, value: &Tree, section: Section) {
        let known = section.keys().find(|(name, _)| *name == key.name);
        let why = match known {
            Some((_, Use::Setting)) => return,
            Some((_, Use::Group(section))) => return self.judge(value, section),
            Some((_, Use::Refused(_))) if value.is_empty() => return,
            Some((name, Use::PassedOver)) => {
                return self.passed_over.push(PassedOver {
                    path: self.path.clone(),
                    key: name,
                    line: key.line,
                });
            }
            Some((_, Use::Refused(reason))) => Why::Refused(reason),
            None => why_unknown(&key.name, section),
        };
        self.unfit.get_or_insert(Unfit {
            line: key.line,
            name: is_word(&key.name).then(|| key.name.clone()),
            why,
        });
    }
}

/// A part of a configuration with keys of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Top,
    Database,
    Replica,
    Level,
    Snapshot,
    Retention,
    Encryption,
}

/// What comes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Setting,
    Group(Section),
    /// It is Litestream's, and nothing is kept any worse without it.
    PassedOver,
    Refused(&'static str),
}

const ENCRYPTED: Use = Use::Refused(
    "files can't be encrypted by us: leave it out, and let the store encrypt, or the disk",
);
const OF_0_3: Use =
    Use::Refused("it is of Litestream 0.3: write snapshot with interval and retention at the top");

const TOP: &[(&str, Use)] = &[
    ("dbs", Use::Group(Section::Database)),
    ("exec", Use::Setting),
    ("shutdown-sync-timeout", Use::Setting),
    ("levels", Use::Group(Section::Level)),
    ("snapshot", Use::Group(Section::Snapshot)),
    ("l0-retention", Use::Setting),
    ("l0-retention-check-interval", Use::Setting),
    ("retention", Use::Group(Section::Retention)),
    // Every file is verified when it is put together with others, whatever this says.
    ("verify-compaction", Use::Setting),
    ("addr", Use::PassedOver),
    ("socket", Use::PassedOver),
    ("validation", Use::PassedOver),
    ("heartbeat-url", Use::PassedOver),
    ("heartbeat-interval", Use::PassedOver),
    ("logging", Use::PassedOver),
    ("mcp-addr", Use::PassedOver),
    ("shutdown-sync-interval", Use::PassedOver),
];

const DATABASE: &[(&str, Use)] = &[
    ("path", Use::Setting),
    ("dir", Use::Setting),
    ("monitor-interval", Use::Setting),
    ("checkpoint-interval", Use::Setting),
    ("min-checkpoint-page-count", Use::Setting),
    ("restore-if-db-not-exists", Use::Setting),
    ("snapshot", Use::Group(Section::Snapshot)),
    ("replica", Use::Group(Section::Replica)),
    ("replicas", Use::Group(Section::Replica)),
    ("pattern", Use::PassedOver),
    ("recursive", Use::PassedOver),
    ("watch", Use::PassedOver),
    ("meta-path", Use::PassedOver),
    ("meta-dir", Use::PassedOver),
    ("busy-timeout", Use::PassedOver),
    ("truncate-page-n", Use::PassedOver),
    ("max-checkpoint-page-count", Use::PassedOver),
    ("max-sync-wal-bytes", Use::PassedOver),
];

const REPLICA: &[(&str, Use)] = &[
    ("type", Use::Setting),
    ("url", Use::Setting),
    ("path", Use::Setting),
    ("name", Use::PassedOver),
    ("retention", OF_0_3),
    ("snapshot-interval", OF_0_3),
    ("retention-check-interval", Use::PassedOver),
];

/// What holds for a replica, or at the top for all of them, beside the settings of its place.
const REPLICA_OR_TOP: &[(&str, Use)] = &[
    ("sync-interval", Use::Setting),
    ("age", Use::Group(Section::Encryption)),
    ("validation-interval", Use::PassedOver),
    ("max-sync-ltx-files", Use::PassedOver),
    ("auto-recover", Use::PassedOver),
    ("sign-accept-encoding", Use::PassedOver),
    ("account-name", Use::PassedOver),
    ("account-key", Use::PassedOver),
    ("sas-token", Use::PassedOver),
    ("webdav-url", Use::PassedOver),
    ("webdav-username", Use::PassedOver),
    ("webdav-password", Use::PassedOver),
    ("jwt", Use::PassedOver),
    ("seed", Use::PassedOver),
    ("creds", Use::PassedOver),
    ("nkey", Use::PassedOver),
    ("username", Use::PassedOver),
    ("token", Use::PassedOver),
    ("tls", Use::PassedOver),
    ("root-cas", Use::PassedOver),
    ("client-cert", Use::PassedOver),
    ("client-key", Use::PassedOver),
    ("max-reconnects", Use::PassedOver),
    ("reconnect-wait", Use::PassedOver),
    ("timeout", Use::PassedOver),
];

impl Section {
    /// The keys that are known here.
    fn keys(self) -> impl Iterator<Item = (&'static str, Use)> {
        let own: &[_] = match self {
            Section::Top => TOP,
            Section::Database => DATABASE,
            Section::Replica => REPLICA,
            Section::Level => &[("interval", Use::Setting)],
            Section::Snapshot => &[("interval", Use::Setting), ("retention", Use::Setting)],
            Section::Retention => &[("enabled", Use::Setting)],
            Section::Encryption => &[("identities", ENCRYPTED), ("recipients", ENCRYPTED)],
        };
        let (shared, names): (&[_], &[_]) = match self {
            Section::Top | Section::Replica => (REPLICA_OR_TOP, Replica::NAMES),
            _ => (&[], &[]),
        };
        let names = names.iter().map(|name| (*name, Use::Setting));
        own.iter().chain(shared).copied().chain(names)
    }

    /// Where it is, behind "it belongs".
    fn place(self) -> Option<&'static str> {
        match self {
            Section::Top => Some("at the top of the configuration"),
            Section::Database => Some("to a database"),
            Section::Replica => Some("to a replica"),
            _ => None,
        }
    }
}

fn why_unknown(name: &str, section: Section) -> Why {
    let elsewhere = [Section::Top, Section::Database, Section::Replica].into_iter();
    let known = elsewhere.filter(|other| {
        let mut keys = other.keys();
        keys.any(|(known, of)| known == name && !matches!(of, Use::Refused(_)))
    });
    let places: Vec<_> = known.filter_map(Section::place).collect();
    match places.is_empty() {
        false => Why::Misplaced(places),
        true => Why::Unknown(nearest(name, section.keys().map(|(known, _)| known))),
    }
}

/// Whether it can only be a key, and may be shown.
fn is_word(name: &str) -> bool {
    let is_part = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
    (1..=40).contains(&name.len()) && name.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::super::replicated::tests::{check_refused, config};

    #[test]
    fn a_key_that_nobody_knows_is_named_with_its_line_and_the_nearest_one() {
        for (text, message) in [
            (
                "dbs:\n- path: /db\n  replica: {path: /a}\n  check-point-interval: 1s",
                "line 4: check-point-interval: there is no such setting: is it \
                 checkpoint-interval?",
            ),
            (
                "exec: x\nl0_retention: 1h",
                "line 2: l0_retention: there is no such setting: is it l0-retention?",
            ),
            (
                "snapshot:\n  interval: 1h\n  retenton: 1h",
                "line 3: retenton: there is no such setting: is it retention?",
            ),
            (
                "levels:\n- intervall: 1h",
                "line 2: intervall: there is no such setting: is it interval?",
            ),
            ("zork: 1", "line 1: zork: there is no such setting here"),
            (
                "dbs:\n- path: /db\n  replicas:\n  - path: /a\n    acess-key-id: hush",
                "line 5: acess-key-id: there is no such setting: is it access-key-id?",
            ),
        ] {
            check_refused(text, message);
        }
    }

    #[test]
    fn a_key_that_belongs_elsewhere_is_told_where() {
        for (text, message) in [
            (
                "dbs:\n- path: /db\n  l0-retention: 1h",
                "line 3: l0-retention: it has no effect here: it belongs at the top of the \
                 configuration",
            ),
            (
                "dbs:\n- path: /db\n  sync-interval: 1s",
                "line 3: sync-interval: it has no effect here: it belongs at the top of the \
                 configuration or to a replica",
            ),
            (
                "monitor-interval: 1s",
                "line 1: monitor-interval: it has no effect here: it belongs to a database",
            ),
            (
                "dbs:\n- path: /db\n  url: file:///a",
                "line 3: url: it has no effect here: it belongs to a replica",
            ),
        ] {
            check_refused(text, message);
        }
    }

    #[test]
    fn what_can_not_be_passed_over_is_refused() {
        check_refused(
            "dbs:\n- path: /db\n  replica:\n    path: /a\n    age:\n      recipients: [age1]",
            "line 6: recipients: files can't be encrypted by us: leave it out, and let the store \
             encrypt, or the disk",
        );
        check_refused(
            "dbs:\n- path: /db\n  replicas:\n  - path: /a\n    retention: 72h",
            "line 5: retention: it is of Litestream 0.3: write snapshot with interval and \
             retention at the top",
        );
        let nothing = "dbs: [{path: /db, replica: {path: /a, age: {recipients: []}}}]";
        assert!(config(nothing).replicated().is_ok());
    }

    #[test]
    fn a_setting_of_litestream_that_is_not_supported_is_named() {
        let config = config(
            "addr: ':9090'\nsocket:\n  enabled: true\ndbs:\n- path: /db\n  meta-path: /m\n  \
             replica: {path: /a, name: n}\n",
        );

        let passed_over: Vec<String> = config.passed_over().map(ToString::to_string).collect();

        assert!(config.replicated().is_ok());
        assert_eq!(
            passed_over,
            [(1, "addr"), (2, "socket"), (6, "meta-path"), (7, "name")].map(|(line, key)| format!(
                "replica.yml: line {line}: {key} is a setting of Litestream that is not supported, \
                 and is passed over"
            ))
        );
    }

    #[test]
    fn a_key_that_is_no_word_is_not_shown() {
        let error = config("'password hush': 1")
            .replicated()
            .expect_err("a key");

        assert_eq!(
            error.to_string(),
            "replica.yml: line 1: a key that is no word: there is no such setting here"
        );
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
}
