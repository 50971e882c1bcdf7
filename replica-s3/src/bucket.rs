//! A bucket as requests see it: its address, and who asks.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use md5::{Digest, Md5};
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::HttpRequest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use replica_core::{Error, ErrorKind};
use reqwest::Url;

use crate::classify::{Place, classify};
use crate::config::{Encryption, S3Config, without_user};
use crate::credentials::{Signing, signing};
use crate::fault::Fault;
use crate::providers::{Addressing, Provider};
use crate::transport::{Answer, Transport};
use crate::uploads::Uploads;

/// What stands for itself in an address; all else is percent-encoded, as signatures want it.
const PLAIN: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PLAIN_IN_KEYS: AsciiSet = PLAIN.remove(b'/');

/// A bucket, with all that it takes to send requests to it.
pub(crate) struct Bucket {
    /// The address of the bucket, without a slash at its end.
    address: String,
    pub(crate) place: Place,
    pub(crate) provider: Provider,
    credentials: Option<Arc<Signing>>,
    transport: Transport,
    /// What a request carries beside what it is about.
    headers: HeaderMap,
    /// What a request for a file's content carries, if it is encrypted with the caller's key.
    customer_key: HeaderMap,
    /// Sends each request once.
    pub(crate) once: AmazonS3,
    /// Sends the requests that begin and end an upload again, if they fail for a reason that may
    /// pass.
    pub(crate) again: AmazonS3,
    /// Sends them again for longer.
    pub(crate) patient: AmazonS3,
}

impl Bucket {
    pub(crate) fn new(config: &S3Config) -> Result<Bucket, Error> {
        check_bucket(&config.bucket)?;
        check_sizes(config)?;
        check_storage_class(config.storage_class.as_deref())?;
        let endpoint = Endpoint::of(config)?;
        let addressing = config.addressing.unwrap_or(endpoint.provider.addressing);
        let address = endpoint.bucket(&config.bucket, addressing);
        // It goes through two parsers, of which the one that signs takes no second look.
        if address.parse::<Uri>().is_err() || Url::parse(&address).is_err() {
            return Err(invalid(format!(
                "the endpoint can't be used: {address} is no address"
            )));
        }
        let transport = Transport::new(config)?;
        let credentials = signing(config, &endpoint.region)?.map(Arc::new);
        let uploads = Uploads {
            config,
            endpoint: &endpoint,
            address: &address,
            transport: &transport,
            credentials: credentials.as_ref(),
        };
        Ok(Bucket {
            once: uploads.once()?,
            again: uploads.again()?,
            patient: uploads.patient()?,
            headers: common_headers(&endpoint.provider)?,
            customer_key: customer_key(&config.encryption)?,
            place: Place {
                endpoint: without_user(&endpoint.address),
                bucket: config.bucket.clone(),
                region: endpoint.region.clone(),
            },
            provider: endpoint.provider,
            address,
            credentials,
            transport,
        })
    }

    /// Sends a request about `key`, or about the bucket.
    pub(crate) async fn send(
        &self,
        method: Method,
        key: Option<&str>,
        query: &[(&str, &str)],
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Fault> {
        let mut request = HttpRequest::new(body.into());
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(key, query)?;
        let all = request.headers_mut();
        all.extend(self.headers.clone());
        all.extend(headers);
        if let Some(credentials) = &self.credentials {
            let credential = credentials.current().await?;
            AwsAuthorizer::new(&credential, "s3", &self.place.region)
                .try_authorize(&mut request, None)
                .map_err(|error| Fault::Nonsense(format!("no signature: {error}")))?;
        }
        self.transport.send(request).await
    }

    /// The headers of a request for a file's content or facts.
    pub(crate) fn reading(&self) -> HeaderMap {
        self.customer_key.clone()
    }

    /// The error for `fault`, which came of trying to do `doing` to the file or files at `key`.
    pub(crate) fn error(&self, fault: Fault, doing: &str, key: &str) -> Error {
        let bucket = &self.place.bucket;
        classify(fault, &format!("{doing} s3://{bucket}/{key}"), &self.place)
    }

    /// The error for what `object_store` says of a request of an upload to `key`.
    pub(crate) fn upload_error(&self, error: object_store::Error, doing: &str, key: &str) -> Error {
        let fault = Fault::within(&error)
            // Of what it says itself only that an answer is none of S3's concerns us.
            .unwrap_or_else(|| Fault::Nonsense(error.to_string()));
        self.error(fault, doing, key)
    }

    fn uri(&self, key: Option<&str>, query: &[(&str, &str)]) -> Result<Uri, Fault> {
        let mut address = self.address.clone();
        if let Some(key) = key {
            if key.split('/').any(|name| matches!(name, "." | "..")) {
                return Err(Fault::Unsayable);
            }
            address.push('/');
            address.extend(utf8_percent_encode(key, &PLAIN_IN_KEYS));
        }
        let mut separator = '?';
        for (name, value) in query {
            address.push(separator);
            address.push_str(name);
            address.push('=');
            address.extend(utf8_percent_encode(value, &PLAIN));
            separator = '&';
        }
        address
            .parse()
            .map_err(|error| Fault::Nonsense(format!("no address: {error}")))
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("place", &self.place)
            .field("provider", &self.provider.name)
            .finish_non_exhaustive()
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message.into())
}

/// A bucket's name goes into a host name or a path as it is, so it has to be of their characters.
fn check_bucket(bucket: &str) -> Result<(), Error> {
    if bucket.is_empty() {
        return Err(invalid("the bucket's name is missing"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !bucket.chars().all(fits) || !bucket.contains(|c: char| c.is_ascii_alphanumeric()) {
        return Err(invalid(format!(
            "{bucket:?} is no name for a bucket: it may have letters, digits, hyphens, dots and underscores"
        )));
    }
    if bucket.ends_with("--x-s3") {
        return Err(invalid(format!(
            "{bucket} is a directory bucket, which lists its files in no order: use a general-purpose bucket"
        )));
    }
    Ok(())
}

/// It goes into a header as it is.
fn check_storage_class(class: Option<&str>) -> Result<(), Error> {
    match class {
        Some(class) if !class.chars().all(|c| c.is_ascii_graphic()) => {
            Err(invalid(format!("{class:?} is no storage class")))
        }
        _ => Ok(()),
    }
}

/// What S3 and those that follow it take.
fn check_sizes(config: &S3Config) -> Result<(), Error> {
    const SMALLEST: u64 = 5 << 20;
    const LARGEST: u64 = 5 << 30;
    if !(SMALLEST..=LARGEST).contains(&config.part_size) {
        return Err(invalid(format!(
            "a part size of {} bytes can't be used: S3 takes parts of 5 MiB to 5 GiB",
            config.part_size
        )));
    }
    for (name, limit) in [
        ("connect", config.connect_timeout),
        ("request", config.request_timeout),
        ("stall", config.stall_timeout),
    ] {
        if limit.is_zero() {
            return Err(invalid(format!(
                "a {name} timeout of zero lets nothing through"
            )));
        }
    }
    Ok(())
}

/// Where the store is, and what is known of it.
pub(crate) struct Endpoint {
    /// The whole address, without a slash at its end.
    address: String,
    pub(crate) provider: Provider,
    pub(crate) region: String,
}

impl Endpoint {
    fn of(config: &S3Config) -> Result<Endpoint, Error> {
        let given = config
            .endpoint
            .as_deref()
            .map(str::trim)
            .filter(|endpoint| !endpoint.is_empty());
        let address = match given {
            Some(endpoint) if endpoint.contains("://") => endpoint.to_owned(),
            Some(endpoint) => format!("https://{endpoint}"),
            None => aws(config.region.as_deref()),
        };
        let address = address.trim_end_matches('/').to_owned();
        let shown = without_user(&address);
        let unusable = |why: &str| invalid(format!("the endpoint {shown} can't be used: {why}"));

        if address.contains('@') {
            return Err(unusable(
                "give the key as credentials, and not in the address",
            ));
        }
        let uri: Uri = address.parse().map_err(|_| unusable("it is no address"))?;
        let authority = uri
            .authority()
            .ok_or_else(|| unusable("it names no host"))?;
        if uri.query().is_some() || address.contains('#') {
            return Err(unusable("it goes on behind the path"));
        }
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if config.allow_http => {}
            Some("http") => {
                return Err(unusable(
                    "over plain HTTP anyone can read along; use https, or allow it expressly",
                ));
            }
            _ => return Err(unusable("only https and http are spoken")),
        }
        let host = authority.host().to_ascii_lowercase();
        let provider = config.provider.unwrap_or_else(|| Provider::of_host(&host));
        let region = config.region.clone().filter(|region| !region.is_empty());
        let region = region.unwrap_or_else(|| provider.region_at(&host));
        if region.is_empty() || !region.chars().all(|c| c.is_ascii_graphic() && c != '/') {
            return Err(invalid(format!("{region:?} is no region")));
        }
        Ok(Endpoint {
            address,
            provider,
            region,
        })
    }

    /// The address of a bucket, without a slash at its end.
    fn bucket(&self, bucket: &str, addressing: Addressing) -> String {
        let (scheme, rest) = self
            .address
            .split_once("://")
            .unwrap_or(("https", &self.address));
        // A certificate for `*.s3.amazonaws.com` is none for a name with one more dot.
        let dotted_behind_tls = bucket.contains('.') && scheme == "https";
        // And a host name has no underscores and no capitals.
        let no_host = bucket.contains(|c: char| c == '_' || c.is_ascii_uppercase());
        match addressing {
            Addressing::VirtualHost if !dotted_behind_tls && !no_host => {
                format!("{scheme}://{bucket}.{rest}")
            }
            _ => format!("{}/{bucket}", self.address),
        }
    }
}

/// The address of AWS's S3 in `region`.
fn aws(region: Option<&str>) -> String {
    let region = region.unwrap_or("us-east-1");
    let partition = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://s3.{region}.amazonaws.com{partition}")
}

pub(crate) fn common_headers(provider: &Provider) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = provider.header {
        let unusable = || {
            invalid(format!(
                "the header {name} of {} can't be sent",
                provider.name
            ))
        };
        headers.insert(
            HeaderName::try_from(name).map_err(|_| unusable())?,
            HeaderValue::try_from(value).map_err(|_| unusable())?,
        );
    }
    Ok(headers)
}

/// The headers with which a file is read that is encrypted with the caller's key.
fn customer_key(encryption: &Encryption) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    if let Encryption::Customer { key } = encryption {
        for (name, value) in [
            ("algorithm", "AES256".to_owned()),
            ("key", BASE64_STANDARD.encode(key)),
            ("key-md5", BASE64_STANDARD.encode(Md5::digest(key))),
        ] {
            let name = format!("x-amz-server-side-encryption-customer-{name}");
            let name = HeaderName::try_from(name).expect("it is lower-case letters and hyphens");
            let mut value = HeaderValue::try_from(value).expect("base64 is text");
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

pub(crate) fn unusable_configuration(error: object_store::Error) -> Error {
    invalid("the configuration can't be used").with_source(error)
}
