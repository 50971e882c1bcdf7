//! Where a replica is, and how to get there.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::providers::{Addressing, Provider};

/// Everything that an [`S3Client`](crate::S3Client) has to know. Only the bucket must be given.
///
/// ```
/// use replica_s3::{Credentials, S3Client, S3Config};
///
/// # fn main() -> replica_core::Result<()> {
/// let config = S3Config::new("backups")
///     .prefix("app/db")
///     .endpoint("https://minio.example.com")
///     .credentials(Credentials::new("AKIAEXAMPLE", "its-secret"));
///
/// assert!(!format!("{config:?}").contains("its-secret"));
/// let client = S3Client::new(config)?;
/// # Ok(())
/// # }
/// ```
///
/// `Debug` shows no secret (K22).
#[derive(Clone)]
#[non_exhaustive]
pub struct S3Config {
    /// The bucket, which must exist.
    pub bucket: String,
    /// The replica's root within the bucket. Empty for the bucket itself. Slashes at its ends,
    /// double ones and `.` make no difference.
    pub prefix: String,
    /// The region that requests are signed for. By default the endpoint's, where its name has it.
    pub region: Option<String>,
    /// Where the store is, such as `https://minio.example.com:9000`; without a scheme, `https`.
    /// By default AWS in [`region`](S3Config::region).
    pub endpoint: Option<String>,
    /// What the store needs. By default what is known of the endpoint's host.
    pub provider: Option<Provider>,
    /// Where the bucket's name goes in a request's address. By default as the provider wants it.
    pub addressing: Option<Addressing>,
    /// Who is asking.
    pub credentials: Credentials,
    /// Whether an endpoint of `http://` is taken, over which anyone can read along.
    pub allow_http: bool,
    /// How the server's certificate is judged.
    pub tls: Tls,
    /// The HTTP proxy to go through, such as `http://proxy.example.com:3128`. The environment
    /// is not asked for one. The role of this machine, task or pod is asked for without it.
    pub proxy: Option<String>,
    /// How the store encrypts what it keeps.
    pub encryption: Encryption,
    /// The storage class of what is written, such as `STANDARD_IA`. By default the bucket's.
    pub storage_class: Option<String>,
    /// How large the parts of an upload are. A file up to this size is written in one request;
    /// a larger one needs this much memory [`parts_in_flight`](S3Config::parts_in_flight) times.
    /// For a file so large that it would have too many parts, they become larger.
    pub part_size: u64,
    /// How many parts of a file are sent at the same time, if the provider takes as many.
    pub parts_in_flight: NonZeroUsize,
    /// How many files are asked for their exact times at the same time.
    pub heads_in_flight: NonZeroUsize,
    /// How long connecting may take, name and TLS included.
    pub connect_timeout: Duration,
    /// How long a request may wait for its answer to begin, counted from the last byte of it
    /// that the system took. Much of that may still be in buffers on the way, whose emptying
    /// nothing shows: for each 512 KiB of a request, up to 8 MiB, it waits as long again.
    pub request_timeout: Duration,
    /// How long the body of an answer may pause while it is being waited for.
    pub stall_timeout: Duration,
    /// What the client calls itself.
    pub user_agent: String,
}

/// Who is asking. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A key that does not change.
    Static {
        /// The access key's id, which is no secret.
        access_key_id: String,
        /// The access key's secret.
        secret_access_key: String,
        /// The session token of temporary credentials.
        session_token: Option<String>,
    },
    /// The role of the machine, from EC2's instance metadata (version 2).
    Instance {
        /// Where the metadata is, unless at its usual address.
        endpoint: Option<String>,
    },
    /// The role of an ECS task (`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`).
    Task {
        /// The path at the container agent's address.
        relative_uri: String,
    },
    /// The role of an EKS pod (`AWS_CONTAINER_CREDENTIALS_FULL_URI`).
    Pod {
        /// Where the pod identity agent is.
        full_uri: String,
        /// The file that holds the token for it.
        token_file: PathBuf,
    },
    /// A role assumed with a web identity token (`AWS_WEB_IDENTITY_TOKEN_FILE`).
    WebIdentity {
        /// The file that holds the token, read anew each time.
        token_file: PathBuf,
        /// The role.
        role_arn: String,
        /// What the session is called.
        session_name: Option<String>,
        /// Where the token service is, unless at its usual address in the region.
        endpoint: Option<String>,
    },
    /// Nobody: requests are not signed.
    Anonymous,
}

/// How the server's certificate is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tls {
    /// By the authorities that the system trusts.
    #[default]
    System,
    /// By the system's authorities and these: certificates in PEM form.
    Trusting(Vec<u8>),
    /// Not at all: anyone in between can read and change everything.
    Unchecked,
}

/// How the store encrypts what it keeps. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encryption {
    /// As the bucket is configured.
    #[default]
    Bucket,
    /// With a key of the key management service (SSE-KMS).
    Kms {
        /// The key's id or ARN.
        key_id: String,
        /// Whether to use an S3 bucket key, where the bucket's configuration shall not say.
        bucket_key: Option<bool>,
    },
    /// With a key that every request carries and the store forgets (SSE-C). Without it nobody
    /// can read the replica again.
    Customer {
        /// The key.
        key: [u8; 32],
    },
}

impl S3Config {
    /// How large parts are by default.
    pub const PART_SIZE: u64 = 8 << 20;

    /// A replica in `bucket`, with everything else at its default.
    pub fn new(bucket: impl Into<String>) -> S3Config {
        S3Config {
            bucket: bucket.into(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            provider: None,
            addressing: None,
            credentials: Credentials::Instance { endpoint: None },
            allow_http: false,
            tls: Tls::System,
            proxy: None,
            encryption: Encryption::Bucket,
            storage_class: None,
            part_size: S3Config::PART_SIZE,
            parts_in_flight: NonZeroUsize::new(4).expect("four is not zero"),
            heads_in_flight: NonZeroUsize::new(32).expect("thirty-two is not zero"),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            user_agent: concat!("replica/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Gives a builder method to each field.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($from:ty) => |$value:ident| $to:expr;)+) => {
        impl S3Config {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(mut self, $value: $from) -> S3Config {
                    self.$name = $to;
                    self
                }
            )+
        }
    };
}

setters! {
    /// The same replica, with its root at [`prefix`](S3Config#structfield.prefix).
    prefix(&str) => |text| text.to_owned();
    /// The same replica, with requests signed for [`region`](S3Config#structfield.region).
    region(&str) => |region| Some(region.to_owned());
    /// The same replica, at [`endpoint`](S3Config#structfield.endpoint).
    endpoint(&str) => |endpoint| Some(endpoint.to_owned());
    /// The same replica, in the store of [`provider`](S3Config#structfield.provider).
    provider(Provider) => |value| Some(value);
    /// The same replica, [addressed](S3Config#structfield.addressing) like this.
    addressing(Addressing) => |value| Some(value);
    /// The same replica, with these [`credentials`](S3Config#structfield.credentials).
    credentials(Credentials) => |credentials| credentials;
    /// The same replica, with plain HTTP [allowed](S3Config#structfield.allow_http) or not.
    allow_http(bool) => |allow| allow;
    /// The same replica, with certificates judged by [`tls`](S3Config#structfield.tls).
    tls(Tls) => |tls| tls;
    /// The same replica, reached through [`proxy`](S3Config#structfield.proxy).
    proxy(&str) => |proxy| Some(proxy.to_owned());
    /// The same replica, with this [`encryption`](S3Config#structfield.encryption).
    encryption(Encryption) => |encryption| encryption;
    /// The same replica, with files written to
    /// [`storage_class`](S3Config#structfield.storage_class).
    storage_class(&str) => |class| Some(class.to_owned());
    /// The same replica, with parts of [`part_size`](S3Config#structfield.part_size) bytes.
    part_size(u64) => |size| size;
    /// The same replica, with so many [`parts_in_flight`](S3Config#structfield.parts_in_flight).
    parts_in_flight(NonZeroUsize) => |parts| parts;
    /// The same replica, with so many [`heads_in_flight`](S3Config#structfield.heads_in_flight).
    heads_in_flight(NonZeroUsize) => |heads| heads;
    /// The same replica, with this [`connect_timeout`](S3Config#structfield.connect_timeout).
    connect_timeout(Duration) => |limit| limit;
    /// The same replica, with this [`request_timeout`](S3Config#structfield.request_timeout).
    request_timeout(Duration) => |limit| limit;
    /// The same replica, with this [`stall_timeout`](S3Config#structfield.stall_timeout).
    stall_timeout(Duration) => |limit| limit;
    /// The same replica, for a client called [`user_agent`](S3Config#structfield.user_agent).
    user_agent(&str) => |text| text.to_owned();
}

impl Credentials {
    /// A key that does not change.
    pub fn new(
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
    ) -> Credentials {
        Credentials::Static {
            access_key_id: access_key_id.into(),
            secret_access_key: secret_access_key.into(),
            session_token: None,
        }
    }
}

/// What stands where a secret would.
const HIDDEN: &str = "…";

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Static {
                access_key_id,
                session_token,
                ..
            } => f
                .debug_struct("Static")
                .field("access_key_id", access_key_id)
                .field("secret_access_key", &HIDDEN)
                .field("session_token", &session_token.as_ref().map(|_| HIDDEN))
                .finish(),
            Credentials::Instance { .. } => f.write_str("Instance"),
            Credentials::Task { .. } => f.write_str("Task"),
            Credentials::Pod { token_file, .. } => f
                .debug_struct("Pod")
                .field("token_file", token_file)
                .finish_non_exhaustive(),
            Credentials::WebIdentity {
                token_file,
                role_arn,
                ..
            } => f
                .debug_struct("WebIdentity")
                .field("token_file", token_file)
                .field("role_arn", role_arn)
                .finish_non_exhaustive(),
            Credentials::Anonymous => f.write_str("Anonymous"),
        }
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encryption::Bucket => f.write_str("Bucket"),
            Encryption::Kms { key_id, bucket_key } => f
                .debug_struct("Kms")
                .field("key_id", key_id)
                .field("bucket_key", bucket_key)
                .finish(),
            Encryption::Customer { .. } => {
                f.debug_struct("Customer").field("key", &HIDDEN).finish()
            }
        }
    }
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint.as_deref().map(without_user))
            .field("credentials", &self.credentials)
            .field(
                "tls",
                &matches!(self.tls, Tls::Unchecked).then_some("unchecked"),
            )
            .field("encryption", &self.encryption)
            .field("part_size", &self.part_size)
            .finish_non_exhaustive()
    }
}

/// An address without the name and password that it may hold.
pub(crate) fn without_user(address: &str) -> String {
    // A password that nobody has encoded may hold any character, a slash too.
    let (before, host) = address.rsplit_once('@').unwrap_or(("", address));
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://{host}"),
        None => host.to_owned(),
    }
}
