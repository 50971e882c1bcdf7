//! What the URLs of all stores have in common: their parts, and `%` in them.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStringExt;

use super::LocationError;

/// The scheme of a URL and what follows `://`.
pub(super) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let well_formed = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    well_formed.then_some((scheme, rest))
}

/// A URL taken apart at its delimiters, before anything in it is decoded: a `%2F` divides nothing.
pub(super) struct Parts<'a> {
    scheme: &'static str,
    /// What stands before the `@`, if there is one.
    pub(super) user: Option<&'a str>,
    /// Host and port.
    pub(super) host: &'a str,
    /// Empty, or from its first `/` on.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
}

impl<'a> Parts<'a> {
    /// Takes apart what follows the `://` of a `scheme`.
    pub(super) fn of(scheme: &'static str, rest: &'a str) -> Result<Parts<'a>, LocationError> {
        if rest.contains('#') {
            return Err(LocationError::Fragment(scheme));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Ok(Parts {
            scheme,
            user,
            host,
            path,
            query,
        })
    }

    /// The path with its `%`s decoded.
    pub(super) fn path(&self) -> Result<OsString, LocationError> {
        self.decode(self.path)
    }

    /// Any other part with its `%`s decoded, which must give text.
    pub(super) fn text(&self, part: &str) -> Result<String, LocationError> {
        let malformed = |_| LocationError::Encoding(self.scheme);
        self.decode(part)?.into_string().map_err(malformed)
    }

    fn decode(&self, part: &str) -> Result<OsString, LocationError> {
        let bytes = decoded(part).ok_or(LocationError::Encoding(self.scheme))?;
        Ok(OsString::from_vec(bytes))
    }

    /// The parameters behind the `?`.
    pub(super) fn parameters(&self) -> Result<Parameters, LocationError> {
        let mut pairs = Vec::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As in every query, and as Go reads it.
            let (name, value) = (name.replace('+', " "), value.replace('+', " "));
            pairs.push((self.text(&name)?, self.text(&value)?));
        }
        Ok(Parameters::new(self.scheme, pairs))
    }
}

/// The parameters of a URL. They are taken out one by one, and what is left at the end is one that
/// nobody knows.
///
/// Litestream passes over a parameter that it does not know. Here that is an error, because a
/// misspelt `sse-kms-key-id` would store in the clear what was meant to be encrypted.
pub(crate) struct Parameters {
    scheme: &'static str,
    known: Vec<&'static str>,
    pairs: Vec<(String, String)>,
}

impl Parameters {
    pub(crate) fn new(scheme: &'static str, pairs: Vec<(String, String)>) -> Parameters {
        Parameters {
            scheme,
            known: Vec::new(),
            pairs,
        }
    }

    /// The value of the parameter that goes by any of `names`, the first of which is shown. An
    /// empty value is none, as it is for Litestream.
    pub(crate) fn take(&mut self, names: &[&'static str]) -> Result<Option<String>, LocationError> {
        self.known.extend(names.first());
        let mut values = Vec::new();
        self.pairs.retain_mut(|(name, value)| {
            let wanted = names.contains(&name.as_str());
            if wanted {
                values.push(std::mem::take(value));
            }
            !wanted
        });
        values.retain(|value| !value.is_empty());
        let value = values.pop();
        match (values.is_empty(), names.first()) {
            (false, Some(name)) => Err(LocationError::Repeated(name)),
            _ => Ok(value),
        }
    }

    /// A parameter that is true or false, in any of Litestream's words for them.
    pub(crate) fn take_bool(
        &mut self,
        names: &[&'static str],
    ) -> Result<Option<bool>, LocationError> {
        self.take_as(names, "true or false", |value| {
            match value.to_ascii_lowercase().as_str() {
                "true" | "1" | "t" | "yes" => Some(true),
                "false" | "0" | "f" | "no" => Some(false),
                _ => None,
            }
        })
    }

    /// A parameter in another form. `form` says to people what `parse` takes.
    pub(crate) fn take_as<T>(
        &mut self,
        names: &[&'static str],
        form: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, LocationError> {
        let Some(value) = self.take(names)? else {
            return Ok(None);
        };
        match parse(&value) {
            Some(value) => Ok(Some(value)),
            None => Err(LocationError::Value {
                name: names.first().copied().unwrap_or_default(),
                form,
            }),
        }
    }

    /// There must be nothing left.
    pub(super) fn finish(self) -> Result<(), LocationError> {
        if self.pairs.is_empty() {
            return Ok(());
        }
        Err(LocationError::Parameters {
            scheme: self.scheme,
            unknown: self
                .pairs
                .iter()
                .map(|(name, _)| shown_name(name))
                .collect(),
            known: self.known,
        })
    }
}

/// A host, without the brackets of an IPv6 address, and a port.
pub(super) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let port = match port? {
        "" => None,
        digits if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        _ => return None,
    };
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let bracketed = text.starts_with('[');
    (!host.is_empty() && (bracketed || host.chars().all(well_formed))).then_some((host, port))
}

/// As much of a part of a URL as a message needs, in characters that a terminal survives.
pub(super) fn shown(part: &str) -> String {
    part.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// The name of a parameter, where it looks like one: a piece of something else may be secret.
fn shown_name(name: &str) -> String {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match name.chars().all(well_formed) {
        true => shown(name),
        false => "…".to_owned(),
    }
}

/// `None` for a malformed `%`, and for a zero byte, which no name has.
fn decoded(part: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high << 4 | low).ok()?
            }
            byte => byte,
        };
        if byte == 0 {
            return None;
        }
        decoded.push(byte);
    }
    Some(decoded)
}

/// What of a path stands for itself in a URL.
pub(super) const IN_PATH: &[u8] = b"/-._~!$&'()*+,;=:@";
/// What of a value stands for itself in a query.
const IN_QUERY: &[u8] = b"/-._~!$'()*,:@";
/// What of a user's name stands for itself.
pub(super) const IN_USER: &[u8] = b"-._~!$&'()*+,;=";

/// Writes `part` with a `%` for each byte that is neither a letter, nor a digit, nor `safe`.
pub(super) fn write_encoded(f: &mut fmt::Formatter<'_>, part: &[u8], safe: &[u8]) -> fmt::Result {
    for &byte in part {
        if byte.is_ascii_alphanumeric() || safe.contains(&byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// Writes the parameters that have a value, behind a `?`.
pub(super) fn write_parameters<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    parameters: [(&str, Option<impl AsRef<[u8]>>); N],
) -> fmt::Result {
    let mut delimiter = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            write!(f, "{delimiter}{name}=")?;
            write_encoded(f, value.as_ref(), IN_QUERY)?;
            delimiter = '&';
        }
    }
    Ok(())
}
