//! What can go wrong with a request, before anyone says what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

/// How much of a server's own words is kept.
const WORDS_MAX: usize = 300;

/// Why a request brought no answer to use. Cheap to clone, because it is found in other crates'
/// errors by reference.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// There was no connection to send the request over.
    Unreachable(Reach, String),
    /// Nothing moved for this long.
    Silent(Duration),
    /// The connection broke.
    Broken(String),
    /// The server said no.
    Refused(Arc<Refusal>),
    /// The server said something that S3 doesn't say.
    Nonsense(String),
    /// The key has `.` or `..` between slashes, which an address means another key by.
    Unsayable,
    /// There are no credentials to sign with, or not now.
    Unsigned {
        /// Whether the same source has given some before.
        had_some: bool,
        /// What went wrong.
        detail: String,
    },
}

/// What kept a connection from being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The host's name has no address.
    Name,
    /// Nobody listens there, or no way leads there.
    Refused,
    /// It took too long.
    TooLong,
    /// The certificate is not trusted.
    Certificate,
    /// The other side does not speak TLS.
    NoTls,
    /// The other side broke the handshake of TLS off.
    Handshake,
    /// Something else.
    Other,
}

/// An answer that says no.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// S3's word for it. Empty where there is none, as in an answer to HEAD.
    pub(crate) code: String,
    pub(crate) message: String,
    /// The bucket's region, where the answer names it.
    pub(crate) region: Option<String>,
    /// What the server's clock says, where the answer tells.
    pub(crate) server_time: Option<String>,
    /// What this machine's clock said, where the answer repeats it.
    pub(crate) request_time: Option<String>,
    /// The size of the file, in the answer to a range that it does not have.
    pub(crate) size: Option<u64>,
    pub(crate) request_id: String,
}

/// The body of an answer that says no.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ErrorBody {
    code: String,
    message: String,
    region: Option<String>,
    request_time: Option<String>,
    server_time: Option<String>,
    request_id: String,
}

impl Refusal {
    /// What an answer of `status` with these headers and the beginning of this body says.
    pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
        let text = String::from_utf8_lossy(body);
        let body: ErrorBody = quick_xml::de::from_str(&text).unwrap_or_default();
        let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let range = header(header::CONTENT_RANGE.as_str());
        let or_header = |text: String, name: &str| {
            Some(text)
                .filter(|text| !text.is_empty())
                .or_else(|| header(name))
        };
        Refusal {
            status: status.as_u16(),
            code: clean(&body.code),
            message: clean(&body.message),
            region: header("x-amz-bucket-region")
                .or(body.region)
                .map(|name| clean(&name)),
            server_time: body
                .server_time
                .or_else(|| header(header::DATE.as_str()))
                .map(|time| clean(&time)),
            request_time: body.request_time.map(|time| clean(&time)),
            size: range.and_then(|range| range.strip_prefix("bytes */")?.trim().parse().ok()),
            request_id: or_header(body.request_id, "x-amz-request-id")
                .map(|id| clean(&id))
                .unwrap_or_default(),
        }
    }

    /// Whether what arrived was not what was sent.
    pub(crate) fn is_of_damage(&self) -> bool {
        matches!(
            self.code.as_str(),
            "BadDigest"
                | "XAmzContentSHA256Mismatch"
                | "XAmzContentChecksumMismatch"
                | "InvalidDigest"
                | "IncompleteBody"
        )
    }

    /// The refusal that `body` is, although the answer's status is good: S3 begins to answer the
    /// completion of an upload before it knows how that ends.
    pub(crate) fn in_good_answer(headers: &HeaderMap, body: &[u8]) -> Option<Refusal> {
        let text = std::str::from_utf8(body).ok()?;
        let text = text.trim_start_matches('\u{feff}').trim_start();
        let text = match text.strip_prefix("<?xml") {
            Some(rest) => rest.split_once("?>")?.1.trim_start(),
            None => text,
        };
        text.starts_with("<Error")
            .then(|| Refusal::read(StatusCode::OK, headers, body))
    }
}

/// A server's words on one line, cut to a bounded length.
fn clean(text: &str) -> String {
    let mut clean: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_MAX)
        .collect();
    if clean.len() < text.trim().len() {
        clean.push('…');
    }
    clean
}

impl Fault {
    /// What a failed request of `reqwest` is. Its address is left out, because a signed one would
    /// hold a signature.
    pub(crate) fn of(error: reqwest::Error) -> Fault {
        let error = error.without_url();
        let detail = chain(&error);
        if !error.is_connect() {
            return if error.is_timeout() {
                Fault::Unreachable(Reach::TooLong, detail)
            } else if error.is_builder() {
                Fault::Nonsense(detail)
            } else {
                Fault::Broken(detail)
            };
        }
        let reach = if error.is_timeout() || detail.contains("timed out") {
            Reach::TooLong
        } else if detail.contains("dns error") {
            Reach::Name
        } else if let Some(reach) = of_tls(&detail) {
            reach
        } else {
            match io_kind(&error) {
                Some(std::io::ErrorKind::TimedOut) => Reach::TooLong,
                Some(
                    std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::HostUnreachable
                    | std::io::ErrorKind::NetworkUnreachable,
                ) => Reach::Refused,
                _ => Reach::Other,
            }
        };
        Fault::Unreachable(reach, detail)
    }

    /// The fault that is the cause of an error of another crate, where there is one.
    pub(crate) fn within(error: &(dyn StdError + 'static)) -> Option<Fault> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(fault) = error.downcast_ref::<Fault>() {
                return Some(fault.clone());
            }
            cause = error.source();
        }
        None
    }

    /// Whether the same request may do better later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Fault::Unreachable(_, _) | Fault::Silent(_) | Fault::Broken(_) => true,
            Fault::Refused(refusal) => {
                matches!(refusal.status, 200 | 408 | 429 | 500 | 502..=504)
                    || refusal.is_of_damage()
            }
            Fault::Nonsense(_) | Fault::Unsayable | Fault::Unsigned { .. } => false,
        }
    }

    /// The server's refusal, where it is one.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Fault::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the server refused with one of these codes.
    pub(crate) fn has_code(&self, codes: &[&str]) -> bool {
        self.refusal()
            .is_some_and(|refusal| codes.contains(&refusal.code.as_str()))
    }

    /// Whether the server refused with this status.
    pub(crate) fn has_status(&self, status: StatusCode) -> bool {
        self.refusal()
            .is_some_and(|refusal| refusal.status == status.as_u16())
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refused(Arc::new(refusal))
    }
}

/// What is wrong with TLS, by the library's own words, because their type is not ours to see.
fn of_tls(detail: &str) -> Option<Reach> {
    if detail.contains("invalid peer certificate") {
        Some(Reach::Certificate)
    } else if detail.contains("InvalidContentType") {
        // It answered the handshake with something else.
        Some(Reach::NoTls)
    } else if detail.contains("fatal alert") && !detail.contains("InternalError") {
        Some(Reach::Handshake)
    } else {
        None
    }
}

/// The kind of the I/O error that `error` comes of.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<std::io::ErrorKind> {
    let mut found = None;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            found = Some(error.kind());
        }
        cause = error.source();
    }
    found
}

/// An error and its causes in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreachable(_, detail)
            | Fault::Broken(detail)
            | Fault::Nonsense(detail)
            | Fault::Unsigned { detail, .. } => f.write_str(detail),
            Fault::Unsayable => f.write_str("`.` and `..` lead elsewhere in an address"),
            Fault::Silent(limit) => write!(f, "nothing moved for {limit:?}"),
            Fault::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if !self.request_id.is_empty() {
            write!(f, " (request {})", self.request_id)?;
        }
        Ok(())
    }
}

impl StdError for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_tls_is_told_apart() {
        for (detail, reach) in [
            (
                "invalid peer certificate: UnknownIssuer",
                Some(Reach::Certificate),
            ),
            (
                "received corrupt message of type InvalidContentType",
                Some(Reach::NoTls),
            ),
            (
                "received fatal alert: HandshakeFailure",
                Some(Reach::Handshake),
            ),
            (
                "received fatal alert: CertificateRequired",
                Some(Reach::Handshake),
            ),
            // A server that is being started or stopped says so.
            ("received fatal alert: InternalError", None),
            ("Connection reset by peer", None),
        ] {
            assert_eq!(of_tls(detail), reach, "{detail}");
        }
    }
}
