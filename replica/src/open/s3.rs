//! A client of a bucket, of what was written and what the environment says.

use std::fs;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use replica_core::ReplicaClient;
use replica_s3::providers::{Addressing, Provider};
use replica_s3::{Credentials, Encryption, S3Client, S3Config, Tls};

use super::OpenError;
use super::environment::Environment;
use crate::location::{S3Location, endpoint};

pub(super) fn client(
    location: &S3Location,
    environment: &Environment<'_>,
) -> Result<Arc<dyn ReplicaClient>, OpenError> {
    Ok(Arc::new(S3Client::new(config(location, environment)?)?))
}

/// The secrets that a client is configured with. Without a configuration there is no client.
pub(super) fn secrets(location: &S3Location, environment: &Environment<'_>) -> Vec<String> {
    let Ok(config) = config(location, environment) else {
        return Vec::new();
    };
    let mut secrets = Vec::new();
    if let Credentials::Static {
        secret_access_key,
        session_token,
        ..
    } = config.credentials
    {
        secrets.push(secret_access_key);
        secrets.extend(session_token);
    }
    if let Encryption::Customer { key } = config.encryption {
        secrets.push(STANDARD.encode(key));
    }
    secrets
}

fn config(location: &S3Location, environment: &Environment<'_>) -> Result<S3Config, OpenError> {
    let mut config = S3Config::new(&location.bucket);
    config.prefix = location.prefix.clone();
    config.endpoint = match &location.endpoint {
        Some(endpoint) => Some(endpoint.clone()),
        None => endpoint_of(environment)?,
    };
    config.region = location.region.clone().or_else(|| {
        // The region of AWS is not one of another store's, and not that of an endpoint that
        // names its own.
        let is_its = match &config.endpoint {
            None => true,
            Some(endpoint) => host_and_port(endpoint)
                .is_some_and(|(_, host, _)| Provider::is_aws_without_region(&host)),
        };
        let names = ["AWS_REGION", "AWS_DEFAULT_REGION"];
        let region = is_its.then(|| environment.first(&names));
        region.flatten().map(|(_, region)| region)
    });
    // Whoever writes `http://` has chosen it.
    config.allow_http = config
        .endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    config.provider = provider(location)?;
    config.addressing = location.path_style.map(|path_style| match path_style {
        true => Addressing::Path,
        false => Addressing::VirtualHost,
    });
    config.proxy = proxy(&config, environment);
    config.tls = tls(location, environment)?;
    config.credentials = credentials(location, environment)?;
    config.encryption = encryption(location)?;
    config.storage_class = location.storage_class.clone();
    config.part_size = location.part_size.unwrap_or(config.part_size);
    if let Some(parts) = location.concurrency {
        config.parts_in_flight = NonZeroUsize::try_from(parts).unwrap_or(NonZeroUsize::MAX);
    }
    Ok(config)
}

fn provider(location: &S3Location) -> Result<Option<Provider>, OpenError> {
    let Some(name) = &location.provider else {
        return Ok(None);
    };
    match Provider::named(name) {
        Some(provider) => Ok(Some(provider)),
        None => Err(OpenError::Setting {
            name: "provider",
            why: "it is none of the stores that are known, such as minio, ceph, garage and seaweedfs",
        }),
    }
}

/// Litestream's name for it comes before those of Amazon's own libraries.
fn endpoint_of(environment: &Environment<'_>) -> Result<Option<String>, OpenError> {
    let names = [
        "LITESTREAM_S3_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL",
    ];
    match environment.first(&names) {
        None => Ok(None),
        Some((name, text)) => match endpoint(&text) {
            Some(endpoint) => Ok(Some(endpoint)),
            None => Err(OpenError::Setting {
                name,
                why: "it is not the address of a store",
            }),
        },
    }
}

fn tls(location: &S3Location, environment: &Environment<'_>) -> Result<Tls, OpenError> {
    if location.skip_verify == Some(true) {
        return Ok(Tls::Unchecked);
    }
    match environment.get("AWS_CA_BUNDLE") {
        None => Ok(Tls::System),
        Some(path) => Ok(Tls::Trusting(read(path.into())?)),
    }
}

/// The keys of a configuration, those of the environment, or else the role of where this runs: in
/// the order of Amazon's own libraries, but that the files of `~/.aws` are not read.
fn credentials(
    location: &S3Location,
    environment: &Environment<'_>,
) -> Result<Credentials, OpenError> {
    let id = location
        .access_key_id
        .as_ref()
        .map(|id| ("access-key-id", id.reveal().to_owned()));
    let secret = location.secret_access_key.as_ref();
    let secret = secret.map(|secret| ("secret-access-key", secret.reveal().to_owned()));
    if let (Some((_, id)), Some((_, secret))) = (&id, &secret) {
        return Ok(Credentials::new(id, secret));
    }
    let id = id.or_else(|| environment.first(&["AWS_ACCESS_KEY_ID", "LITESTREAM_ACCESS_KEY_ID"]));
    let secret = secret
        .or_else(|| environment.first(&["AWS_SECRET_ACCESS_KEY", "LITESTREAM_SECRET_ACCESS_KEY"]));
    match (id, secret) {
        (Some((_, access_key_id)), Some((_, secret_access_key))) => Ok(Credentials::Static {
            access_key_id,
            secret_access_key,
            session_token: environment.get("AWS_SESSION_TOKEN"),
        }),
        (Some((given, _)), None) => Err(OpenError::HalfKey {
            given,
            missing: "AWS_SECRET_ACCESS_KEY",
        }),
        (None, Some((given, _))) => Err(OpenError::HalfKey {
            given,
            missing: "AWS_ACCESS_KEY_ID",
        }),
        (None, None) => role(environment),
    }
}

fn role(environment: &Environment<'_>) -> Result<Credentials, OpenError> {
    let get = |name| environment.get(name);
    if let (Some(token_file), Some(role_arn)) =
        (get("AWS_WEB_IDENTITY_TOKEN_FILE"), get("AWS_ROLE_ARN"))
    {
        return Ok(Credentials::WebIdentity {
            token_file: token_file.into(),
            role_arn,
            session_name: get("AWS_ROLE_SESSION_NAME"),
            endpoint: get("AWS_ENDPOINT_URL_STS"),
        });
    }
    if let Some(relative_uri) = get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Ok(Credentials::Task { relative_uri });
    }
    if let (Some(full_uri), Some(token_file)) = (
        get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ) {
        return Ok(Credentials::Pod {
            full_uri,
            token_file: token_file.into(),
        });
    }
    if get("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Err(OpenError::NoCredentials);
    }
    Ok(Credentials::Instance {
        endpoint: get("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    })
}

fn encryption(location: &S3Location) -> Result<Encryption, OpenError> {
    let key = match (&location.sse_customer_key, &location.sse_customer_key_path) {
        (_, Some(path)) => {
            let text = String::from_utf8(read(path.clone())?).unwrap_or_default();
            Some(("sse-customer-key-path", text.trim().to_owned()))
        }
        (Some(key), None) => Some(("sse-customer-key", key.reveal().to_owned())),
        (None, None) => None,
    };
    match (key, &location.sse_kms_key_id) {
        (None, None) => Ok(Encryption::Bucket),
        (None, Some(key_id)) => Ok(Encryption::Kms {
            key_id: key_id.clone(),
            bucket_key: None,
        }),
        (Some((name, key)), None) => match STANDARD.decode(key).map(<[u8; 32]>::try_from) {
            Ok(Ok(key)) => Ok(Encryption::Customer { key }),
            _ => Err(OpenError::Setting {
                name,
                why: "a key is the base64 of 32 bytes (in a URL, write %2B for +)",
            }),
        },
        (Some((name, _)), Some(_)) => Err(OpenError::Setting {
            name,
            why: "it does not go together with sse-kms-key-id: leave one",
        }),
    }
}

fn read(path: PathBuf) -> Result<Vec<u8>, OpenError> {
    fs::read(&path).map_err(|source| OpenError::File { path, source })
}

/// The proxy that the environment names for where the bucket is, unless that is this machine
/// itself or one of the environment's exceptions, which may name the endpoint or the bucket's own
/// host.
fn proxy(config: &S3Config, environment: &Environment<'_>) -> Option<String> {
    let region = config.region.as_deref().unwrap_or("us-east-1");
    let aws = format!("https://s3.{region}.amazonaws.com");
    let (scheme, host, port) = host_and_port(config.endpoint.as_deref().unwrap_or(&aws))?;
    let is_here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let exceptions = environment.first(&["NO_PROXY", "no_proxy"]);
    let exceptions = exceptions
        .map(|(_, list)| list.to_ascii_lowercase())
        .unwrap_or_default();
    let hosts = [format!("{}.{host}", config.bucket), host];
    let mut exceptions = exceptions.split(',').map(str::trim);
    if is_here
        || exceptions.any(|exception| hosts.iter().any(|host| excepts(exception, host, port)))
    {
        return None;
    }
    let (_, proxy) = match scheme {
        "http" => environment.first(&["HTTP_PROXY", "http_proxy"]),
        _ => environment.first(&["HTTPS_PROXY", "https_proxy"]),
    }?;
    Some(match proxy.contains("://") {
        true => proxy,
        false => format!("http://{proxy}"),
    })
}

/// The scheme, the host in lower case and the port of an endpoint.
fn host_and_port(endpoint: &str) -> Option<(&str, String, u16)> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(address) => address.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let usual = if scheme == "http" { 80 } else { 443 };
    let port = port
        .strip_prefix(':')
        .map_or(Some(usual), |port| port.parse().ok())?;
    Some((scheme, host.to_ascii_lowercase(), port))
}

/// Whether an entry of `NO_PROXY` names this host: `*`, a domain with all that is below it, or an
/// address, either with a port or without, or a network such as `10.0.0.0/8`.
fn excepts(exception: &str, host: &str, port: u16) -> bool {
    if exception == "*" {
        return true;
    }
    if let Some((network, bits)) = exception.split_once('/') {
        let (network, bits) = (network.parse(), bits.parse());
        return match (network, bits, host.parse()) {
            (Ok(network), Ok(bits), Ok(address)) => is_in(address, network, bits),
            _ => false,
        };
    }
    // An IPv6 address has colons of its own, and a port only behind brackets.
    let (name, its_port) = match exception
        .strip_prefix('[')
        .and_then(|it| it.split_once(']'))
    {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None if exception.parse::<IpAddr>().is_ok() => (exception, None),
        None => match exception.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (exception, None),
        },
    };
    let domain = name.trim_start_matches("*.").trim_start_matches('.');
    let is_below = host
        .strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !domain.is_empty() && is_below && its_port.is_none_or(|text| text.parse() == Ok(port))
}

/// Whether `address` is in the network of the first `bits` of `network`.
fn is_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, size) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (
            u128::from(address.to_bits()),
            u128::from(network.to_bits()),
            32,
        ),
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    match u32::checked_sub(size, bits) {
        None => false,
        Some(rest) => (address ^ network).checked_shr(rest).unwrap_or(0) == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [(&str, &str); 2] = [
        ("AWS_ACCESS_KEY_ID", "AKIA"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
    ];

    fn configure(url: &str, variables: &[(&str, &str)]) -> Result<S3Config, OpenError> {
        let crate::Location::S3(location) = url.parse().expect(url) else {
            panic!("{url}");
        };
        of(&location, variables)
    }

    fn of(location: &S3Location, variables: &[(&str, &str)]) -> Result<S3Config, OpenError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        config(location, &Environment::new(&variable))
    }

    #[track_caller]
    fn check_refused(url: &str, variables: &[(&str, &str)], message: &str) {
        let error = configure(url, variables).expect_err(message);

        assert_eq!(error.to_string(), message);
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }

    #[test]
    fn what_was_written_is_what_is_asked_for() {
        let key = STANDARD.encode([7; 32]).replace('+', "%2B");
        let url = format!(
            "s3://b/p/q?endpoint=minio.local:9000&region=eu&provider=garage&force-path-style=false\
             &part-size=5MiB&concurrency=2&storage-class=GLACIER&sse-customer-key={key}"
        );

        let config = configure(&url, &BOTH).unwrap();

        assert_eq!(
            (config.bucket.as_str(), config.prefix.as_str()),
            ("b", "p/q")
        );
        assert_eq!(config.endpoint.as_deref(), Some("http://minio.local:9000"));
        assert_eq!(config.region.as_deref(), Some("eu"));
        assert_eq!(config.provider, Provider::named("Garage"));
        assert_eq!(config.addressing, Some(Addressing::VirtualHost));
        assert_eq!(
            (config.part_size, config.parts_in_flight.get()),
            (5 << 20, 2)
        );
        assert_eq!(config.storage_class.as_deref(), Some("GLACIER"));
        assert_eq!(config.encryption, Encryption::Customer { key: [7; 32] });
        assert_eq!(config.tls, Tls::System);
        assert!(config.allow_http);
    }

    #[test]
    fn what_was_not_written_is_left_to_the_client() {
        let config = configure("s3://b/p", &BOTH).unwrap();

        let default = S3Config::new("b");
        assert_eq!(config.endpoint, None);
        assert_eq!((config.region, config.addressing), (None, None));
        assert_eq!(config.provider, None);
        assert_eq!(
            (config.part_size, config.parts_in_flight),
            (default.part_size, default.parts_in_flight)
        );
        assert_eq!(config.encryption, Encryption::Bucket);
        assert!(!config.allow_http);
    }

    #[test]
    fn a_store_that_its_host_does_not_tell_is_named() {
        for (query, name) in [
            ("endpoint=minio.local:9000&provider=minio", "MinIO"),
            ("endpoint=10.0.0.1:3900&provider=GARAGE", "Garage"),
            ("endpoint=s3.example.com&provider=ceph", "Ceph"),
            ("endpoint=localhost:8333&provider=SeaweedFS", "SeaweedFS"),
            ("provider=cloudflare-r2", "Cloudflare R2"),
            ("provider=Cloudflare+R2", "Cloudflare R2"),
        ] {
            let config = configure(&format!("s3://b?{query}"), &BOTH).unwrap();

            let provider = config.provider.expect(query);
            assert_eq!(provider.name, name);
        }
        check_refused(
            "s3://b?provider=hush",
            &BOTH,
            "provider: it is none of the stores that are known, such as minio, ceph, garage and \
             seaweedfs",
        );
    }

    #[test]
    fn plain_http_is_taken_from_whoever_writes_it_only() {
        for (endpoint, allowed) in [("http://h", true), ("https://h", false), ("h", false)] {
            let config = configure(&format!("s3://b?endpoint={endpoint}"), &BOTH).unwrap();

            assert_eq!(config.allow_http, allowed, "{endpoint}");
        }
    }

    #[test]
    fn keys_come_from_the_names_of_amazon_and_of_litestream() {
        let key = |id: &str, secret: &str, token: Option<&str>| Credentials::Static {
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            session_token: token.map(str::to_owned),
        };
        let litestream = [
            ("LITESTREAM_ACCESS_KEY_ID", "ls"),
            ("LITESTREAM_SECRET_ACCESS_KEY", "ls-hush"),
        ];
        let all = [BOTH, litestream].concat();
        for (variables, credentials) in [
            (&BOTH[..], key("AKIA", "hush", None)),
            (&litestream, key("ls", "ls-hush", None)),
            (&all, key("AKIA", "hush", None)),
            (
                &[&BOTH[..], &[("AWS_SESSION_TOKEN", "token")]].concat(),
                key("AKIA", "hush", Some("token")),
            ),
            (&[BOTH[0], litestream[1]], key("AKIA", "ls-hush", None)),
        ] {
            let config = configure("s3://b", variables).unwrap();

            assert_eq!(config.credentials, credentials);
        }
    }

    #[test]
    fn the_keys_of_a_configuration_come_first_and_without_a_session() {
        let mut location = S3Location::of_bucket("b", "").unwrap();
        location.access_key_id = Some(crate::location::Secret::new("own"));
        location.secret_access_key = Some(crate::location::Secret::new("own-hush"));
        let variables = [&BOTH[..], &[("AWS_SESSION_TOKEN", "token")]].concat();

        let config = of(&location, &variables).unwrap();

        assert_eq!(config.credentials, Credentials::new("own", "own-hush"));
    }

    #[test]
    fn half_a_key_is_none() {
        check_refused(
            "s3://b",
            &BOTH[..1],
            "AWS_ACCESS_KEY_ID is given, and AWS_SECRET_ACCESS_KEY is not: both make the key of \
             a bucket",
        );
        check_refused(
            "s3://b",
            &[("LITESTREAM_SECRET_ACCESS_KEY", "hush")],
            "LITESTREAM_SECRET_ACCESS_KEY is given, and AWS_ACCESS_KEY_ID is not: both make the \
             key of a bucket",
        );
    }

    #[test]
    fn without_a_key_there_is_a_role() {
        let web = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
            ("AWS_ROLE_ARN", "arn"),
        ];
        let pod = [
            (
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "http://169.254.170.23/v1",
            ),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/pod"),
        ];
        for (variables, credentials) in [
            (
                &web[..],
                Credentials::WebIdentity {
                    token_file: "/token".into(),
                    role_arn: "arn".to_owned(),
                    session_name: None,
                    endpoint: None,
                },
            ),
            (
                &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")],
                Credentials::Task {
                    relative_uri: "/v2/x".to_owned(),
                },
            ),
            (
                &pod,
                Credentials::Pod {
                    full_uri: "http://169.254.170.23/v1".to_owned(),
                    token_file: "/pod".into(),
                },
            ),
            (&[], Credentials::Instance { endpoint: None }),
            (
                &[(
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
                    "http://[fd00:ec2::254]",
                )],
                Credentials::Instance {
                    endpoint: Some("http://[fd00:ec2::254]".to_owned()),
                },
            ),
        ] {
            let config = configure("s3://b", variables).unwrap();

            assert_eq!(config.credentials, credentials);
        }
        check_refused(
            "s3://b",
            &[("AWS_EC2_METADATA_DISABLED", "True")],
            "no credentials: set $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY",
        );
    }

    #[test]
    fn the_region_of_the_environment_is_amazons() {
        let region = |url: &str, name: &'static str| {
            let variables = [&BOTH[..], &[(name, "eu-west-1")]].concat();
            configure(url, &variables).unwrap().region
        };

        for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            assert_eq!(region("s3://b", name).as_deref(), Some("eu-west-1"));
            assert_eq!(region("s3://b?region=own", name).as_deref(), Some("own"));
            assert_eq!(region("s3://b?endpoint=h", name), None);
            let own = "s3://b?endpoint=s3.dualstack.us-west-2.amazonaws.com";
            assert_eq!(region(own, name), None);
            let global = region("s3://b?endpoint=s3.amazonaws.com", name);
            assert_eq!(global.as_deref(), Some("eu-west-1"));
        }
    }

    #[test]
    fn the_endpoint_of_the_environment_is_for_those_who_gave_none() {
        for name in [
            "LITESTREAM_S3_ENDPOINT",
            "AWS_ENDPOINT_URL_S3",
            "AWS_ENDPOINT_URL",
        ] {
            let variables = [&BOTH[..], &[(name, "localhost:9000")]].concat();
            let endpoint = |url: &str| configure(url, &variables).unwrap().endpoint;

            assert_eq!(endpoint("s3://b").as_deref(), Some("http://localhost:9000"));
            assert_eq!(endpoint("s3://b?endpoint=h").as_deref(), Some("https://h"));
        }
        check_refused(
            "s3://b",
            &[("AWS_ENDPOINT_URL", "ftp://hush")],
            "AWS_ENDPOINT_URL: it is not the address of a store",
        );
    }

    #[test]
    fn certificates_are_judged_as_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        fs::write(&path, "pem").unwrap();
        let bundle = ("AWS_CA_BUNDLE", path.to_str().unwrap());
        let variables = [&BOTH[..], &[bundle]].concat();
        let gone = [&BOTH[..], &[("AWS_CA_BUNDLE", "/nowhere/ca.pem")]].concat();

        let trusting = configure("s3://b", &variables).unwrap();
        let unchecked = configure("s3://b?skip-verify=true", &variables).unwrap();

        assert_eq!(trusting.tls, Tls::Trusting(b"pem".to_vec()));
        assert_eq!(unchecked.tls, Tls::Unchecked);
        check_refused("s3://b", &gone, "can't read /nowhere/ca.pem");
    }

    #[test]
    fn a_key_to_encrypt_with_is_of_32_bytes_and_alone() {
        for key in ["hush", "aHVzaA==", ""] {
            let url = format!("s3://b?sse-customer-key={key}");
            if key.is_empty() {
                assert_eq!(
                    configure(&url, &BOTH).unwrap().encryption,
                    Encryption::Bucket
                );
                continue;
            }
            check_refused(
                &url,
                &BOTH,
                "sse-customer-key: a key is the base64 of 32 bytes (in a URL, write %2B for +)",
            );
        }
        check_refused(
            "s3://b?sse-customer-key=hush&sse-kms-key-id=k",
            &BOTH,
            "sse-customer-key: it does not go together with sse-kms-key-id: leave one",
        );
        let kms = configure("s3://b?sse-kms-key-id=k", &BOTH)
            .unwrap()
            .encryption;
        assert!(matches!(kms, Encryption::Kms { key_id, .. } if key_id == "k"));
    }

    /// K22: whoever looks for secrets in what is shown has to know them.
    #[test]
    fn the_secrets_of_a_place_and_of_the_environment_are_known() {
        let key = STANDARD.encode([7; 32]);
        let url = format!("s3://b?sse-customer-key={}", key.replace('+', "%2B"));
        let Ok(crate::Location::S3(location)) = url.parse() else {
            panic!("{url}");
        };
        let variable = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("AKIA".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("hush".to_owned()),
            "AWS_SESSION_TOKEN" => Some("token".to_owned()),
            _ => None,
        };

        let secrets = secrets(&location, &Environment::new(&variable));

        assert_eq!(secrets, ["hush", "token", key.as_str()]);
    }

    #[test]
    fn a_key_to_encrypt_with_may_be_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, format!("{}\n", STANDARD.encode([7; 32]))).unwrap();
        let mut location = S3Location::of_bucket("b", "").unwrap();
        location.sse_customer_key_path = Some(path);

        let config = of(&location, &BOTH).unwrap();

        assert_eq!(config.encryption, Encryption::Customer { key: [7; 32] });
    }

    #[test]
    fn a_proxy_is_for_others_than_this_machine_and_its_exceptions() {
        let proxy = |endpoint: &str, exceptions: &str| {
            let variables = [
                &BOTH[..],
                &[
                    ("HTTPS_PROXY", "proxy:3128"),
                    ("http_proxy", "http://plain:3128"),
                    ("no_proxy", exceptions),
                ],
            ]
            .concat();
            configure(&format!("s3://b{endpoint}"), &variables)
                .unwrap()
                .proxy
        };

        assert_eq!(proxy("", "").as_deref(), Some("http://proxy:3128"));
        assert_eq!(
            proxy("?endpoint=https://h:9000/s3", "").as_deref(),
            Some("http://proxy:3128")
        );
        assert_eq!(
            proxy("?endpoint=http://h", "x.h,eh").as_deref(),
            Some("http://plain:3128")
        );
        for (endpoint, exceptions) in [
            ("?endpoint=http://127.0.0.1:9000", ""),
            ("?endpoint=https://[::1]:9000", ""),
            ("?endpoint=https://localhost", ""),
            ("?endpoint=https://s3.example.com", "a, example.com"),
            ("?endpoint=https://s3.example.com", ".example.com"),
            ("?endpoint=https://s3.example.com", "*.example.com"),
            ("?endpoint=https://S3.example.com", "s3.Example.com"),
            ("", "*"),
            ("", ".amazonaws.com"),
            ("", "s3.us-east-1.amazonaws.com"),
            ("?region=eu-west-1", ".eu-west-1.amazonaws.com"),
            ("", "b.s3.us-east-1.amazonaws.com"),
            ("?endpoint=https://s3.example.com", "b.s3.example.com"),
            ("?endpoint=https://s3.example.com", "example.com:443"),
            ("?endpoint=https://10.1.2.3:9000", "10.0.0.0/8"),
            ("?endpoint=https://10.1.2.3:9000", "0.0.0.0/0"),
            ("?endpoint=https://10.1.2.3:9000", "10.1.2.3:9000"),
            ("?endpoint=https://[fd00::1]:9000", "fd00::1"),
            ("?endpoint=https://[fd00::1]:9000", "[fd00::1]:9000"),
            ("?endpoint=https://[fd00::1]:9000", "fd00::/8"),
        ] {
            assert_eq!(proxy(endpoint, exceptions), None, "{endpoint} {exceptions}");
        }
        for (endpoint, exceptions) in [
            ("?endpoint=https://s3.example.com", "example.com:9000"),
            ("?endpoint=https://s3.example.com", "other.s3.example.com"),
            ("?endpoint=https://10.1.2.3:9000", "10.2.0.0/16"),
            (
                "?endpoint=https://10.1.2.3:9000",
                "fd00::/8,10.0.0.0/99,x/8,/",
            ),
            ("?region=eu-west-1", "s3.us-east-1.amazonaws.com"),
        ] {
            assert!(proxy(endpoint, exceptions).is_some(), "{exceptions}");
        }
    }
}
