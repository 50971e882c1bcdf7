//! The XML of S3, as far as a replica speaks it.

use std::fmt::Write;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::fault::Fault;

/// A page of a listing (`ListObjectsV2`).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Page {
    pub(crate) contents: Vec<Object>,
    pub(crate) is_truncated: bool,
    pub(crate) next_continuation_token: Option<String>,
}

/// An object in a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) last_modified: String,
}

/// A page of open uploads (`ListMultipartUploads`).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UploadPage {
    #[serde(rename = "Upload")]
    pub(crate) uploads: Vec<Upload>,
    pub(crate) is_truncated: bool,
    pub(crate) next_key_marker: Option<String>,
    pub(crate) next_upload_id_marker: Option<String>,
}

/// An open upload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) upload_id: String,
}

/// What became of a batch of deletions (`DeleteObjects`, asked to name only failures).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Deleted {
    #[serde(rename = "Error")]
    pub(crate) errors: Vec<NotDeleted>,
}

/// An object that could not be deleted.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NotDeleted {
    pub(crate) key: String,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// Reads the `root` element that an answer has to be.
pub(crate) fn read<T: DeserializeOwned>(root: &str, body: &[u8]) -> Result<T, Fault> {
    let no_answer = |why: String| Fault::Nonsense(format!("no {root}: {why}"));
    let text = std::str::from_utf8(body).map_err(|error| no_answer(error.to_string()))?;
    // The parser takes any element for the root.
    let is_root = text
        .split('<')
        .map(str::trim_start)
        .find(|element| !element.is_empty() && !element.starts_with(['?', '!', '\u{feff}']))
        .is_some_and(|element| {
            element
                .strip_prefix(root)
                .is_some_and(|rest| rest.starts_with([' ', '>', '/', '\n', '\r', '\t']))
        });
    if !is_root {
        return Err(no_answer("the answer is something else".to_owned()));
    }
    quick_xml::de::from_str(text).map_err(|error| no_answer(error.to_string()))
}

/// The body of a request to delete `keys`, which names only failures.
pub(crate) fn delete<'a>(keys: impl IntoIterator<Item = &'a str>) -> String {
    let mut body = String::from(r#"<?xml version="1.0" encoding="UTF-8"?>"#);
    body.push_str(r#"<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>"#);
    for key in keys {
        body.push_str("<Object><Key>");
        escape(key, &mut body);
        body.push_str("</Key></Object>");
    }
    body.push_str("</Delete>");
    body
}

/// Whether XML can say `key`: it has no word for most control characters.
pub(crate) fn can_say(key: &str) -> bool {
    key.chars().all(|c| {
        matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
    })
}

fn escape(text: &str, into: &mut String) {
    for c in text.chars() {
        match c {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&apos;"),
            // A parser would make something else of them.
            '\t' | '\n' | '\r' => {
                write!(into, "&#{};", u32::from(c)).expect("a string takes everything");
            }
            c => into.push(c),
        }
    }
}
