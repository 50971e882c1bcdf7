//! Replicas in buckets: `s3://bucket/prefix?endpoint=…`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::url::{self, IN_PATH, Parameters, Parts};
use super::{LocationError, Secret};

const SCHEME: &str = "s3";

/// A prefix in a bucket, and what it takes to get there.
///
/// Holds what was written, in a URL or a configuration. What was not comes from the environment
/// when it is [opened](crate::Location::open).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct S3Location {
    pub(crate) bucket: String,
    /// Without a slash at either end.
    pub(crate) prefix: String,
    /// With its scheme.
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) provider: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) skip_verify: Option<bool>,
    pub(crate) part_size: Option<u64>,
    pub(crate) concurrency: Option<NonZeroU32>,
    pub(crate) storage_class: Option<String>,
    /// In base64.
    pub(crate) sse_customer_key: Option<Secret>,
    /// The file that holds such a key.
    pub(crate) sse_customer_key_path: Option<PathBuf>,
    pub(crate) sse_kms_key_id: Option<String>,
    pub(crate) access_key_id: Option<Secret>,
    pub(crate) secret_access_key: Option<Secret>,
}

impl S3Location {
    /// The bucket and prefix of what follows `s3://`.
    pub(super) fn parse(rest: &str) -> Result<S3Location, LocationError> {
        let is_arn = rest
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case("arn:"));
        if is_arn {
            return Err(LocationError::AccessPoint);
        }
        let parts = Parts::of(SCHEME, rest)?;
        if parts.user.is_some() {
            return Err(LocationError::S3User);
        }
        let host = Host::parse(parts.host)?;
        let path = parts.path()?.into_string();
        let prefix = clean(&path.map_err(|_| LocationError::Encoding(SCHEME))?);
        let mut location = S3Location {
            bucket: host.bucket,
            prefix,
            endpoint: host.endpoint,
            region: host.region,
            ..S3Location::default()
        };
        let mut parameters = parts.parameters()?;
        location.configure(&mut parameters)?;
        parameters.finish()?;
        Ok(location)
    }

    /// The bucket `bucket`, which a configuration names, and the place `path` in it.
    pub(crate) fn of_bucket(bucket: &str, path: &str) -> Result<S3Location, LocationError> {
        if !is_bucket(bucket) {
            return Err(LocationError::Bucket);
        }
        Ok(S3Location {
            bucket: bucket.to_owned(),
            prefix: clean(path),
            ..S3Location::default()
        })
    }

    /// Takes what `parameters` say over what was said before.
    pub(crate) fn configure(&mut self, parameters: &mut Parameters) -> Result<(), LocationError> {
        fn over<T>(setting: &mut Option<T>, value: Option<T>) {
            if value.is_some() {
                *setting = value;
            }
        }
        let endpoint = parameters.take_as(&["endpoint"], ENDPOINT_FORM, endpoint)?;
        over(&mut self.endpoint, endpoint);
        over(&mut self.region, parameters.take(&["region"])?);
        over(&mut self.provider, parameters.take(&["provider"])?);
        let path_style = parameters.take_bool(&["force-path-style", "forcePathStyle"])?;
        over(&mut self.path_style, path_style);
        let skip_verify = parameters.take_bool(&["skip-verify", "skipVerify"])?;
        over(&mut self.skip_verify, skip_verify);
        // Everything is signed with its checksum, which is more than either of them asks for.
        parameters.take_bool(&["sign-payload", "signPayload"])?;
        parameters.take_bool(&["require-content-md5", "requireContentMD5"])?;
        let part_size = parameters.take_as(&["part-size", "partSize"], BYTES_FORM, bytes)?;
        over(&mut self.part_size, part_size);
        let concurrency = parameters.take_as(&["concurrency"], "a number from 1", |text| {
            text.parse().ok()
        })?;
        over(&mut self.concurrency, concurrency);
        let storage_class = parameters.take(&["storage-class", "storageClass"])?;
        over(&mut self.storage_class, storage_class);
        let algorithm = &["sse-customer-algorithm", "sseCustomerAlgorithm"];
        parameters.take_as(algorithm, "AES256", |text| (text == "AES256").then_some(()))?;
        let key = parameters.take(&["sse-customer-key", "sseCustomerKey"])?;
        over(&mut self.sse_customer_key, key.map(Secret::new));
        // Computed from the key, which is all that it could be.
        parameters.take(&["sse-customer-key-md5", "sseCustomerKeyMD5"])?;
        let kms_key = parameters.take(&["sse-kms-key-id", "sseKmsKeyId"])?;
        over(&mut self.sse_kms_key_id, kms_key);
        Ok(())
    }

    pub(super) fn is_root(&self) -> bool {
        self.prefix.is_empty()
    }

    /// Whether it is the same place of the same bucket. A bucket of a name is in one region, but
    /// there are parts of AWS that know nothing of each other.
    pub(super) fn is_same_place(&self, other: &S3Location) -> bool {
        let server = |location: &S3Location| location.endpoint.as_deref().map(server);
        let elsewhere = matches!((&self.region, &other.region), (Some(a), Some(b)) if a != b);
        self.bucket == other.bucket
            && self.prefix == other.prefix
            && server(self) == server(other)
            && !elsewhere
    }

    pub(super) fn join(&self, namespace: &str) -> S3Location {
        let mut joined = self.clone();
        joined.prefix = clean(&format!("{}/{namespace}", self.prefix));
        joined
    }
}

/// A URL that gives the same place. Holds no secret: whoever reads it back has to give those anew.
impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            f.write_str("/")?;
            url::write_encoded(f, self.prefix.as_bytes(), IN_PATH)?;
        }
        let yes_or_no = |value: Option<bool>| value.map(|value| value.to_string());
        let parameters = [
            ("endpoint", self.endpoint.clone()),
            ("region", self.region.clone()),
            ("provider", self.provider.clone()),
            ("force-path-style", yes_or_no(self.path_style)),
            ("skip-verify", yes_or_no(self.skip_verify)),
            ("part-size", self.part_size.map(|size| size.to_string())),
            (
                "concurrency",
                self.concurrency.map(|number| number.to_string()),
            ),
            ("storage-class", self.storage_class.clone()),
            ("sse-kms-key-id", self.sse_kms_key_id.clone()),
        ];
        url::write_parameters(f, parameters)
    }
}

/// What the host of a URL says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Host {
    bucket: String,
    endpoint: Option<String>,
    region: Option<String>,
}

impl Host {
    /// A bucket's name, or a bucket and the endpoint of a provider in the forms that Litestream
    /// takes apart.
    fn parse(text: &str) -> Result<Host, LocationError> {
        let (host, port) = url::host_and_port(text).ok_or(LocationError::Bucket)?;
        let host = Host::known(host, port).unwrap_or_else(|| Host {
            bucket: host.to_owned(),
            ..Host::default()
        });
        match is_bucket(&host.bucket) {
            true => Ok(host),
            false => Err(LocationError::Bucket),
        }
    }

    fn known(host: &str, port: Option<u16>) -> Option<Host> {
        let lower = host.to_ascii_lowercase();
        let below = |domain: &str| {
            let end = lower.strip_suffix(domain)?.strip_suffix('.')?.len();
            host.get(..end)
        };
        if let Some(rest) = below("amazonaws.com") {
            // bucket.s3.region, or bucket.s3
            let (bucket, region) = match rest.rsplit_once(".s3.") {
                Some((bucket, region)) => (bucket, Some(region.to_owned())),
                None => (rest.strip_suffix(".s3").unwrap_or_default(), None),
            };
            return Some(Host {
                bucket: bucket.to_owned(),
                region,
                ..Host::default()
            });
        }
        for (domain, service) in [
            ("digitaloceanspaces.com", ""),
            ("backblazeb2.com", "s3."),
            ("scw.cloud", "s3."),
        ] {
            let Some(rest) = below(domain) else { continue };
            // bucket.service.region
            let (before, region) = rest.rsplit_once('.').unwrap_or(("", rest));
            let bucket = format!("{before}.");
            let bucket = bucket
                .strip_suffix(service)
                .and_then(|bucket| bucket.strip_suffix('.'));
            return Some(Host {
                bucket: bucket.unwrap_or_default().to_owned(),
                endpoint: Some(format!("https://{service}{region}.{domain}")),
                ..Host::default()
            });
        }
        if let Some(bucket) = below("s3.filebase.com") {
            return Some(Host {
                bucket: bucket.to_owned(),
                endpoint: Some("https://s3.filebase.com".to_owned()),
                ..Host::default()
            });
        }
        // bucket.host:port, as of a MinIO nearby.
        let port = port?;
        let (bucket, host) = host
            .split_once('.')
            .filter(|(_, host)| !host.is_empty())
            .unwrap_or_default();
        Some(Host {
            bucket: bucket.to_owned(),
            endpoint: Some(format!("http://{host}:{port}")),
            ..Host::default()
        })
    }
}

/// Whether this may be the name of a bucket, in the widest sense that there ever was.
fn is_bucket(name: &str) -> bool {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.chars().all(well_formed)
}

const ENDPOINT_FORM: &str = "a host, such as minio.example.com:9000, with http:// or https:// \
                             before it or not";

/// The endpoint with its scheme: `http` for a host nearby, `https` for all others, as Litestream
/// decides it.
pub(crate) fn endpoint(text: &str) -> Option<String> {
    let (scheme, rest) = match url::split_scheme(text) {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => (String::new(), text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, _port) = url::host_and_port(authority)?;
    let in_path = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    if !path.chars().all(in_path) {
        return None;
    }
    let scheme = match scheme.as_str() {
        "" if is_nearby(host) => "http",
        "" => "https",
        scheme @ ("http" | "https") => scheme,
        _ => return None,
    };
    Some(format!("{scheme}://{rest}"))
}

/// An endpoint as all spellings of it have it: the scheme, the host in small letters and the port,
/// and the path.
fn server(endpoint: &str) -> (String, String) {
    let (scheme, rest) = url::split_scheme(endpoint).unwrap_or(("https", endpoint));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = authority.to_ascii_lowercase();
    let usual = if scheme == "http" { 80 } else { 443 };
    let server = match url::host_and_port(&authority) {
        Some((host, port)) => format!("{scheme}://{host} {}", port.unwrap_or(usual)),
        None => authority,
    };
    (server, path.trim_end_matches('/').to_owned())
}

fn is_nearby(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_private() || address == Ipv4Addr::LOCALHOST,
        Ok(IpAddr::V6(address)) => address == Ipv6Addr::LOCALHOST,
        Err(_) => host == "localhost" || host.ends_with(".localhost") || host.ends_with(".local"),
    }
}

const BYTES_FORM: &str = "a number of bytes, such as 8388608 or 8MiB";

/// A number of bytes, with a unit or without: `5MB` is 5,000,000 and `5MiB` 5,242,880.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000 * 1000,
        "g" | "gb" => 1000 * 1000 * 1000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        _ => return None,
    };
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor)?,
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            (bytes < (1u64 << 53) as f64).then_some(bytes as u64)?
        }
    };
    (bytes > 0).then_some(bytes)
}

/// A path without empty segments, `.` and `..`, and without a slash at either end: what Litestream
/// makes of one.
fn clean(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<S3Location, LocationError> {
        S3Location::parse(url.strip_prefix("s3://").expect("an s3 URL"))
    }

    /// The place of `url`, as the shortest URL that gives the same.
    #[track_caller]
    fn check(url: &str, shown: &str) {
        let location = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));

        assert_eq!(location.to_string(), shown, "{url}");
        assert_eq!(parse(shown), Ok(location), "{shown}");
    }

    #[track_caller]
    fn check_refused(url: &str, error: LocationError) {
        assert_eq!(parse(url), Err(error), "{url}");
    }

    #[test]
    fn a_bucket_and_a_prefix() {
        check("s3://backups", "s3://backups");
        check("s3://backups/", "s3://backups");
        check("s3://backups/app/db/", "s3://backups/app/db");
        check("s3://my.dotted-bucket_1/app", "s3://my.dotted-bucket_1/app");
        check("s3://Backups/App", "s3://Backups/App");
    }

    #[test]
    fn a_prefix_is_cleaned_and_decoded_as_litestream_does_it() {
        check("s3://b//a/./c/../d//", "s3://b/a/d");
        check("s3://b/../../a", "s3://b/a");
        check("s3://b/a%20b/%C3%A9+c", "s3://b/a%20b/%C3%A9+c");
        check("s3://b/a%2Fb", "s3://b/a/b");
        check("s3://b/100%25", "s3://b/100%25");
        check("s3://b/a?", "s3://b/a");
    }

    #[test]
    fn every_parameter_has_both_of_its_spellings() {
        let all = "s3://b/p?endpoint=https://host:9000&region=eu&provider=garage\
                   &force-path-style=false&skip-verify=true&part-size=8388608&concurrency=3&storage-class=GLACIER\
                   &sse-kms-key-id=arn:aws:kms:eu:1:key/2";
        check(all, all);
        check(
            "s3://b/p?sseKmsKeyId=arn%3Aaws%3Akms%3Aeu%3A1%3Akey%2F2&storageClass=GLACIER\
             &concurrency=3&partSize=8MiB&skipVerify=1&forcePathStyle=No&region=eu\
             &provider=garage\
             &endpoint=https%3A%2F%2Fhost%3A9000&signPayload=true&requireContentMD5=false\
             &sseCustomerAlgorithm=AES256&sseCustomerKeyMD5=x",
            all,
        );
        check("s3://b/p?region=&endpoint=&skip-verify=", "s3://b/p");
        check("s3://b?region=a+b%2Bc", "s3://b?region=a%20b%2Bc");
    }

    #[test]
    fn a_key_to_encrypt_with_is_kept_and_not_shown() {
        let location = parse("s3://b/p?sseCustomerKey=aHVzaA%3D%3D").unwrap();

        assert_eq!(location.sse_customer_key, Some(Secret::new("aHVzaA==")));
        assert_eq!(location.to_string(), "s3://b/p");
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_http_only_nearby() {
        for (text, full) in [
            ("localhost:9000", "http://localhost:9000"),
            ("127.0.0.1", "http://127.0.0.1"),
            ("[::1]:9000", "http://[::1]:9000"),
            ("10.1.2.3:9000", "http://10.1.2.3:9000"),
            ("172.31.0.1", "http://172.31.0.1"),
            ("172.32.0.1", "https://172.32.0.1"),
            ("192.168.0.1", "http://192.168.0.1"),
            ("minio.local:80", "http://minio.local:80"),
            ("10.example.com", "https://10.example.com"),
            ("s3.example.com/", "https://s3.example.com"),
            ("HTTP://s3.example.com", "http://s3.example.com"),
            (
                "x.supabase.co/storage/v1/s3",
                "https://x.supabase.co/storage/v1/s3",
            ),
        ] {
            assert_eq!(endpoint(text).as_deref(), Some(full), "{text}");
        }
        for text in [
            "ftp://host",
            "https://",
            "https://user:hush@host",
            "host:port",
            "host:99999",
            "host:0",
            "[::1",
            "[host]",
            "a b",
            "host/a b",
            "host?x",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }

    #[test]
    fn the_hosts_of_providers_are_taken_apart() {
        check("s3://b.s3.amazonaws.com/p", "s3://b/p");
        check(
            "s3://my.b.s3.eu-west-1.amazonaws.com/p",
            "s3://my.b/p?region=eu-west-1",
        );
        check(
            "s3://b.fra1.digitaloceanspaces.com/p",
            "s3://b/p?endpoint=https://fra1.digitaloceanspaces.com",
        );
        check(
            "s3://b.s3.us-west-004.backblazeb2.com/p",
            "s3://b/p?endpoint=https://s3.us-west-004.backblazeb2.com",
        );
        check(
            "s3://my.b.s3.filebase.com",
            "s3://my.b?endpoint=https://s3.filebase.com",
        );
        check(
            "s3://b.s3.fr-par.scw.cloud/p",
            "s3://b/p?endpoint=https://s3.fr-par.scw.cloud",
        );
        check(
            "s3://b.localhost:9000/p",
            "s3://b/p?endpoint=http://localhost:9000",
        );
        check(
            "s3://b.minio.example.net:9000/p",
            "s3://b/p?endpoint=http://minio.example.net:9000",
        );
        check(
            "s3://b.s3.fr-par.scw.cloud/p?endpoint=https://other&region=x",
            "s3://b/p?endpoint=https://other&region=x",
        );
    }

    #[test]
    fn a_host_that_names_no_bucket_is_refused() {
        for url in [
            "s3://",
            "s3:///prefix",
            "s3://localhost:9000/bucket",
            "s3://bucket.:9000/prefix",
            "s3://s3.eu-west-1.amazonaws.com/bucket",
            "s3://s3.us-west-004.backblazeb2.com/bucket",
            "s3://xs3.fr-par.scw.cloud/bucket",
            "s3://fra1.digitaloceanspaces.com/bucket",
            "s3://a b/p",
            "s3://a%20b/p",
            "s3://b:port/p",
            "s3://[::1]/p",
            "s3://b\u{e9}/p",
        ] {
            check_refused(url, LocationError::Bucket);
        }
        let arn = "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/app/prefix";
        check_refused(arn, LocationError::AccessPoint);
        check_refused("s3://key:hush@bucket/p", LocationError::S3User);
    }

    #[test]
    fn a_value_that_makes_no_sense_is_told_by_its_name() {
        for (query, name) in [
            ("endpoint=ftp://x", "endpoint"),
            ("forcePathStyle=maybe", "force-path-style"),
            ("part-size=0", "part-size"),
            ("part-size=-1", "part-size"),
            ("part-size=5XB", "part-size"),
            ("concurrency=0", "concurrency"),
            ("concurrency=1.5", "concurrency"),
            ("sse-customer-algorithm=DES", "sse-customer-algorithm"),
        ] {
            match parse(&format!("s3://b?{query}")) {
                Err(LocationError::Value { name: told, .. }) => assert_eq!(told, name, "{query}"),
                result => panic!("{query}: {result:?}"),
            }
        }
        check_refused(
            "s3://b?region=a&region=b",
            LocationError::Repeated("region"),
        );
        check_refused(
            "s3://b?skipVerify=true&skip-verify=false",
            LocationError::Repeated("skip-verify"),
        );
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_told_with_those_that_there_are() {
        let error = parse("s3://b?sse-kms-key=hush&colour=hush&Region=hush").unwrap_err();

        assert_eq!(
            error.to_string(),
            "unknown parameters of a URL with s3://: sse-kms-key (is it sse-kms-key-id?), colour, \
             Region (is it region?); there are endpoint, region, provider, force-path-style, \
             skip-verify, sign-payload, require-content-md5, part-size, concurrency, \
             storage-class, sse-customer-algorithm, sse-customer-key, sse-customer-key-md5, \
             sse-kms-key-id"
        );
    }

    #[test]
    fn sizes_have_the_units_that_litestream_reads() {
        for (text, size) in [
            ("1", 1),
            ("5MB", 5_000_000),
            ("5 MiB", 5 << 20),
            ("1.5gib", 3 << 29),
            ("64k", 64_000),
            ("64Ki", 65_536),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for text in [
            "",
            "MB",
            "0",
            "0.1",
            "1..5",
            "99999999999999999999",
            "99999999999g",
            "1e3",
        ] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn what_lies_below_a_place_has_its_settings() {
        let location = parse("s3://b/p?region=eu&sse-customer-key=aHVzaA==").unwrap();

        let below = location.join("a/b");

        assert_eq!(below.to_string(), "s3://b/p/a/b?region=eu");
        assert_eq!(below.sse_customer_key, location.sse_customer_key);
        assert!(parse("s3://b").unwrap().is_root());
        assert!(!below.is_root());
    }
}
