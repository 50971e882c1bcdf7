//! The YAML of a configuration: the only module that knows the library.
//!
//! What a restore does not need is not named here and is passed over, as Litestream passes over
//! keys that it does not know.

use serde::Deserialize;

/// A place in a text: line and column, both from 1.
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) dbs: Option<Vec<Database>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Database {
    pub(super) path: Option<String>,
    pub(super) replica: Option<Replica>,
    pub(super) replicas: Option<Vec<Replica>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Replica {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) url: Option<String>,
    pub(super) path: Option<String>,
}

/// Reads a configuration. The library's own message quotes the text, secrets included, so only
/// the place of an error is kept.
pub(super) fn parse(text: &str) -> Result<Document, Option<Position>> {
    let document: Option<Document> = serde_saphyr::from_str(text).map_err(|error| {
        error.location().map(|location| Position {
            line: location.line(),
            column: location.column(),
        })
    })?;
    Ok(document.unwrap_or(Document { dbs: None }))
}
