//! The YAML of a configuration: the only module that knows the library.
//!
//! What is of no use here is not named and is passed over; the [`Tree`] has it, for whoever judges
//! that.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A place in a text: line and column, both from 1.
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// A value that is judged, and its line, from 1.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) text: String,
    pub(super) line: u64,
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Setting, D::Error> {
        let text = Spanned::<String>::deserialize(deserializer)?;
        Ok(Setting {
            line: text.referenced.line(),
            text: text.value,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) dbs: Option<Vec<Database>>,
    pub(super) exec: Option<String>,
    pub(super) shutdown_sync_timeout: Option<Setting>,
    pub(super) levels: Option<Vec<Compaction>>,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) l0_retention: Option<Setting>,
    pub(super) l0_retention_check_interval: Option<Setting>,
    pub(super) retention: Option<Retention>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Compaction {
    pub(super) interval: Option<Setting>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Snapshot {
    pub(super) interval: Option<Setting>,
    pub(super) retention: Option<Setting>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Retention {
    pub(super) enabled: Option<Setting>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Database {
    pub(super) path: Option<String>,
    pub(super) dir: Option<String>,
    pub(super) monitor_interval: Option<Setting>,
    pub(super) checkpoint_interval: Option<Setting>,
    pub(super) min_checkpoint_page_count: Option<Setting>,
    pub(super) restore_if_db_not_exists: Option<Setting>,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) replica: Option<Replica>,
    pub(super) replicas: Option<Vec<Replica>>,
}

/// Declares what a replica is given, each by its name in the file. `Debug` shows none of it.
macro_rules! replica {
    ($($field:ident: $name:literal,)+) => {
        /// A replica: where it is, and how to get there.
        #[derive(Clone, Default, Deserialize)]
        pub(super) struct Replica {
            #[serde(rename = "type")]
            pub(super) kind: Option<String>,
            pub(super) url: Option<String>,
            pub(super) path: Option<String>,
            #[serde(rename = "sync-interval")]
            pub(super) sync_interval: Option<Setting>,
            $(#[serde(rename = $name)] pub(super) $field: Option<String>,)+
        }

        impl Replica {
            /// The names of those settings that say more of a place than a URL does.
            pub(super) const NAMES: &[&str] = &[$($name),+];

            /// The same replica, with the settings of `defaults` that it has none of its own for.
            /// They say nothing of where it is.
            pub(super) fn or(mut self, defaults: &Replica) -> Replica {
                if self.sync_interval.is_none() {
                    self.sync_interval.clone_from(&defaults.sync_interval);
                }
                $(
                    if self.$field.as_deref().is_none_or(str::is_empty) {
                        self.$field.clone_from(&defaults.$field);
                    }
                )+
                self
            }

            /// Each setting by its name.
            pub(super) fn settings(&self) -> Vec<(String, String)> {
                let settings = [$(($name, &self.$field)),+];
                settings
                    .into_iter()
                    .filter_map(|(name, text)| Some((name.to_owned(), text.clone()?)))
                    .collect()
            }
        }
    };
}

replica! {
    access_key_id: "access-key-id",
    secret_access_key: "secret-access-key",
    region: "region",
    bucket: "bucket",
    endpoint: "endpoint",
    provider: "provider",
    force_path_style: "force-path-style",
    sign_payload: "sign-payload",
    require_content_md5: "require-content-md5",
    skip_verify: "skip-verify",
    storage_class: "storage-class",
    part_size: "part-size",
    concurrency: "concurrency",
    sse_customer_algorithm: "sse-customer-algorithm",
    sse_customer_key: "sse-customer-key",
    sse_customer_key_path: "sse-customer-key-path",
    sse_kms_key_id: "sse-kms-key-id",
    host: "host",
    user: "user",
    password: "password",
    key_path: "key-path",
    host_key: "host-key",
    concurrent_writes: "concurrent-writes",
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").finish_non_exhaustive()
    }
}

/// All that a configuration has, but for the values.
pub(super) enum Tree {
    Map(Vec<(Key, Tree)>),
    List(Vec<Tree>),
    Value { is_empty: bool },
}

/// A key, and its line, from 1.
pub(super) struct Key {
    pub(super) name: String,
    pub(super) line: u64,
}

impl Tree {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Tree::Map(entries) => entries.is_empty(),
            Tree::List(entries) => entries.is_empty(),
            Tree::Value { is_empty } => *is_empty,
        }
    }

    /// What a mapping has under `name`, with its line.
    fn values(&self, name: &str) -> impl Iterator<Item = (u64, &Tree)> {
        let entries = match self {
            Tree::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        let found = entries.iter().filter(move |(key, _)| key.name == name);
        found.map(|(key, value)| (key.line, value))
    }

    /// What a list has.
    fn entries(&self) -> impl Iterator<Item = &Tree> {
        match self {
            Tree::List(entries) => entries.iter(),
            _ => [].iter(),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(OfTree)
    }
}

struct OfTree;

impl<'de> Visitor<'de> for OfTree {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key = Key {
                line: key.referenced.line(),
                name: key.value,
            };
            entries.push((key, map.next_value()?));
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Tree::List(entries))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        let is_empty = text.is_empty();
        Ok(Tree::Value { is_empty })
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::default())
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Value { is_empty: false })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Value { is_empty: false })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Value { is_empty: false })
    }

    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Value { is_empty: false })
    }

    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Value { is_empty: false })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Value { is_empty: false })
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::Value { is_empty: true }
    }
}

/// Reads a configuration, what holds for every replica in it, and all of its keys. The library's
/// own message quotes the text, secrets included, so only the place of an error is kept.
pub(super) fn parse(text: &str) -> Result<(Document, Replica, Tree), Option<Position>> {
    Ok((read(text)?, read(text)?, read(text)?))
}

/// The line of a replica that is written as a mere text, of whatever else is wrong with `text`.
pub(super) fn mere_replica(text: &str) -> Option<u64> {
    let document: Tree = read(text).ok()?;
    let databases = document.values("dbs").flat_map(|(_, list)| list.entries());
    let replicas = databases.flat_map(|database| {
        let one = database.values("replica");
        let several = database.values("replicas");
        let several = several.flat_map(|(line, list)| list.entries().map(move |one| (line, one)));
        one.chain(several)
    });
    let mut mere = replicas.filter(|(_, it)| matches!(it, Tree::Value { is_empty: false }));
    mere.next().map(|(line, _)| line)
}

fn read<T: DeserializeOwned + Default>(text: &str) -> Result<T, Option<Position>> {
    let read: Option<T> = serde_saphyr::from_str(text).map_err(|error| {
        error.location().map(|location| Position {
            line: location.line(),
            column: location.column(),
        })
    })?;
    Ok(read.unwrap_or_default())
}
