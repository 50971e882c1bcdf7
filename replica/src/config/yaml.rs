//! The YAML of a configuration: the only module that knows the library.
//!
//! What is of no use here is not named and is passed over, as Litestream passes over keys that it
//! does not know.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A place in a text: line and column, both from 1.
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Document {
    pub(super) dbs: Option<Vec<Database>>,
    pub(super) exec: Option<String>,
    pub(super) shutdown_sync_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Database {
    pub(super) path: Option<String>,
    pub(super) dir: Option<String>,
    pub(super) monitor_interval: Option<String>,
    pub(super) checkpoint_interval: Option<String>,
    pub(super) min_checkpoint_page_count: Option<String>,
    pub(super) restore_if_db_not_exists: Option<String>,
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
            pub(super) sync_interval: Option<String>,
            $(#[serde(rename = $name)] pub(super) $field: Option<String>,)+
        }

        impl Replica {
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

/// Reads a configuration, and what holds for every replica in it. The library's own message quotes
/// the text, secrets included, so only the place of an error is kept.
pub(super) fn parse(text: &str) -> Result<(Document, Replica), Option<Position>> {
    Ok((read(text)?, read(text)?))
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
