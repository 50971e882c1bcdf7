//! Rules of the house that a reader of the sources can hold: words that don't belong somewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// A rule of ARCHITECTURE.md: in the sources of these crates, tests aside, these words don't
/// appear, but for the files that are their place.
struct Rule {
    number: u32,
    crates: &'static [&'static str],
    words: &'static [&'static str],
    except: &'static [&'static str],
}

const BELOW_THE_FACADE: &[&str] = &[
    "ltx",
    "replica-core",
    "conformance",
    "replica-file",
    "replica-layers",
    "replica-mock",
    "replica-s3",
    "replica-sftp",
    "replica-engine",
];
const EVERYWHERE: &[&str] = &[
    "ltx",
    "replica-core",
    "conformance",
    "replica-file",
    "replica-layers",
    "replica-mock",
    "replica-s3",
    "replica-sftp",
    "replica-engine",
    "replica",
    "replica-cli",
];

const RULES: &[Rule] = &[
    Rule {
        number: 1,
        crates: &["ltx", "replica-core"],
        words: &[
            "std::fs",
            "std::net",
            "std::thread",
            "thread::spawn",
            "tokio::",
            "Instant::now",
            "SystemTime::now",
        ],
        except: &[],
    },
    Rule {
        number: 2,
        crates: BELOW_THE_FACADE,
        words: &["std::env", "env::var"],
        except: &[],
    },
    Rule {
        number: 3,
        crates: &["replica-file", "replica-s3", "replica-sftp"],
        words: &["sleep(", "backon", "tracing", "retry("],
        // Where the client library is told how often it may send one request of an upload again.
        except: &["replica-s3/src/again.rs"],
    },
    Rule {
        number: 5,
        crates: EVERYWHERE,
        words: &["{:016x}", ".ltx\"", "\"ltx/", ":04x}"],
        except: &["ltx/src/txid.rs", "replica-core/src/layout.rs"],
    },
    Rule {
        number: 11,
        crates: EVERYWHERE,
        words: &[
            "unbounded_channel",
            "unbounded(",
            "std::sync::mpsc::channel",
            "mpsc::channel()",
        ],
        except: &[],
    },
    Rule {
        number: 12,
        crates: BELOW_THE_FACADE,
        words: &["SystemTime::now", "std::time::Instant"],
        // A known failure expires on the day on which the suite runs; a folder's ctime means
        // something only beside the clock that stamps it.
        except: &["conformance/src/known.rs", "replica-file/src/folder.rs"],
    },
];

#[test]
fn no_word_stands_where_a_rule_forbids_it() {
    let mut broken = Vec::new();
    for rule in RULES {
        for name in rule.crates {
            let sources = sources(&root().join(name).join("src"));
            assert!(!sources.is_empty(), "{name} has no sources");
            for path in sources {
                let shown = shown(&path);
                if !rule.except.contains(&shown.as_str()) {
                    broken.extend(offences(rule, &path, &shown));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn no_test_is_ignored_or_hangs_on_an_environment_variable() {
    let this_file = shown(Path::new(file!()));
    let mut broken = Vec::new();
    for name in EVERYWHERE {
        for path in sources(&root().join(name)) {
            let shown = shown(&path);
            if this_file.ends_with(&shown) {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source should be readable");
            let is_test = shown.contains("/tests/");
            for (number, line) in text.lines().enumerate() {
                let ignored = line.trim_start().starts_with("#[ignore");
                let hangs = is_test && (line.contains("env::var(") || line.contains("option_env!"));
                if ignored || hangs {
                    broken.push(format!("{shown}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "rule 15:\n{}", broken.join("\n"));
}

/// The lines of `path` that break `rule`. Comments and the file's tests, which come last, are
/// passed over.
fn offences(rule: &Rule, path: &Path, shown: &str) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a source should be readable");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut offences = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let statement = line.split("//").next().unwrap_or_default();
        for word in rule.words.iter().filter(|word| statement.contains(**word)) {
            offences.push(format!(
                "rule {}: {shown}:{}: {word}",
                rule.number,
                number + 1
            ));
        }
    }
    offences
}

/// The `.rs` files below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("an entry should be readable").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// A path as the rules write it, from the top level.
fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .to_string_lossy()
        .replace('\\', "/")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}
