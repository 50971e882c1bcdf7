//! Who asks, from wherever that is known.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use http::{HeaderValue, Uri};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientOptions, CredentialProvider, StaticCredentialProvider};
use replica_core::Error;
use reqwest::Url;

use crate::again::sends_again;
use crate::bucket::{invalid, unusable_configuration};
use crate::config::{Credentials, S3Config};
use crate::fault::Fault;
use crate::transport::Transport;

/// How long the source of credentials may take.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the agent of a container is (docs.aws.amazon.com, "Task IAM roles").
const CONTAINER_AGENT: &str = "169.254.170.2";

/// Where the credentials come from. Refused ones never reach a header.
pub(crate) struct Signing {
    source: AwsCredentialProvider,
    /// The file whose content goes into a header of the request to the source.
    token_file: Option<PathBuf>,
    had_some: AtomicBool,
}

pub(crate) fn signing(config: &S3Config, region: &str) -> Result<Option<Signing>, Error> {
    let source: AwsCredentialProvider = match &config.credentials {
        Credentials::Anonymous => return Ok(None),
        Credentials::Static {
            access_key_id,
            secret_access_key,
            session_token,
        } => {
            let credential = AwsCredential {
                key_id: access_key_id.clone(),
                secret_key: secret_access_key.clone(),
                token: session_token.clone().filter(|token| !token.is_empty()),
            };
            check_credential(&credential).map_err(invalid)?;
            Arc::new(StaticCredentialProvider::new(credential))
        }
        role => of_role(role, config, region)?,
    };
    let token_file = match &config.credentials {
        Credentials::Pod { token_file, .. } => Some(token_file.clone()),
        _ => None,
    };
    Ok(Some(Signing {
        source,
        token_file,
        had_some: false.into(),
    }))
}

/// What asks for the credentials of `role`.
fn of_role(
    role: &Credentials,
    config: &S3Config,
    region: &str,
) -> Result<AwsCredentialProvider, Error> {
    let builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(region)
        .with_http_connector(to_source(config)?);
    let builder = sends_again(builder, 1, 2 * CREDENTIALS_TIMEOUT);
    let builder = match role {
        Credentials::Anonymous | Credentials::Static { .. } => builder,
        Credentials::Instance { endpoint } => match endpoint {
            Some(endpoint) => {
                check_address(endpoint, "the instance metadata", &["http", "https"])?;
                let endpoint = endpoint.trim_end_matches('/');
                builder.with_config(AmazonS3ConfigKey::MetadataEndpoint, endpoint)
            }
            None => builder,
        },
        Credentials::Task { relative_uri } => {
            if !relative_uri.starts_with('/') {
                return Err(invalid(
                    "the path of the container credentials does not begin with a slash",
                ));
            }
            let address = format!("http://{CONTAINER_AGENT}{relative_uri}");
            check_address(&address, "the container credentials", &["http"])?;
            builder.with_config(
                AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
                relative_uri,
            )
        }
        Credentials::Pod {
            full_uri,
            token_file,
        } => {
            check_address(full_uri, "the pod identity agent", &["http", "https"])?;
            builder
                .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, full_uri)
                .with_config(
                    AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
                    text(token_file)?,
                )
        }
        Credentials::WebIdentity {
            token_file,
            role_arn,
            session_name,
            endpoint,
        } => {
            let mut builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, text(token_file)?)
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn);
            if let Some(name) = session_name {
                builder = builder.with_config(AmazonS3ConfigKey::RoleSessionName, name);
            }
            if let Some(endpoint) = endpoint {
                check_address(endpoint, "the token service", &["https"])?;
                builder = builder.with_config(AmazonS3ConfigKey::StsEndpoint, endpoint);
            }
            builder
        }
    };
    let store = builder.build().map_err(unusable_configuration)?;
    Ok(Arc::clone(store.credentials()))
}

/// What asks the source of the credentials: as the store is asked, but soon tired, and without the
/// proxy where the source is a part of this machine, whose credentials are no proxy's business.
fn to_source(config: &S3Config) -> Result<ToSource, Error> {
    let is_elsewhere = matches!(config.credentials, Credentials::WebIdentity { .. });
    let transport = Transport::new(&S3Config {
        proxy: config.proxy.clone().filter(|_| is_elsewhere),
        connect_timeout: config.connect_timeout.min(CREDENTIALS_TIMEOUT),
        request_timeout: CREDENTIALS_TIMEOUT,
        stall_timeout: CREDENTIALS_TIMEOUT,
        ..config.clone()
    })?;
    Ok(ToSource(transport))
}

/// The way to a source of credentials. `object_store` puts what the metadata of an instance says
/// into its next request to it, and panics where that can't be.
#[derive(Clone, Debug)]
struct ToSource(Transport);

impl HttpConnector for ToSource {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for ToSource {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let path = request.uri().path().to_owned();
        let (parts, body) = self.0.call(request).await?.into_parts();
        let said = body.bytes().await?;
        let can_be_said_again = if path.ends_with("/latest/api/token") {
            HeaderValue::from_bytes(&said).is_ok()
        } else if path.ends_with("/security-credentials/") {
            Uri::try_from([b"/", &said[..]].concat()).is_ok()
        } else {
            true
        };
        match can_be_said_again {
            true => Ok(HttpResponse::from_parts(parts, said.into())),
            false => Err(HttpError::new(
                HttpErrorKind::Unknown,
                Fault::Nonsense("what no request can repeat".to_owned()),
            )),
        }
    }
}

/// Demands what a request can be sent to. The address may hold a secret and is not shown.
fn check_address(address: &str, whose: &str, schemes: &[&str]) -> Result<(), Error> {
    let is_one = address.parse::<Uri>().is_ok_and(|uri| {
        let scheme = uri.scheme_str().unwrap_or_default();
        schemes.contains(&scheme) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if is_one && Url::parse(address).is_ok() {
        return Ok(());
    }
    Err(invalid(format!(
        "the address of {whose} can't be used: write it as {}://host/path",
        schemes.join(":// or ")
    )))
}

fn text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| {
        invalid(format!(
            "the name of the token file {} is no text",
            path.display()
        ))
    })
}

/// Says what is wrong with a credential, never what it is: one with a line break, as a file that
/// was read whole has it, can't be sent.
fn check_credential(credential: &AwsCredential) -> Result<(), &'static str> {
    let sendable = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    if credential.key_id.is_empty() || !sendable(&credential.key_id) {
        return Err("the access key's id is empty, or has characters that none can have");
    }
    if credential.secret_key.is_empty() || !sendable(&credential.secret_key) {
        return Err("the secret key is empty, or has characters that none can have");
    }
    if !credential.token.as_deref().is_none_or(sendable) {
        return Err("the session token has characters that none can have");
    }
    Ok(())
}

impl Signing {
    pub(crate) async fn current(&self) -> Result<Arc<AwsCredential>, Fault> {
        let limit = 2 * CREDENTIALS_TIMEOUT;
        let unsigned = |detail: String| Fault::Unsigned {
            had_some: self.had_some.load(Ordering::Relaxed),
            detail,
        };
        if let Some(file) = self.token_file.clone()
            && !is_sendable(file).await
        {
            return Err(unsigned("the token file has what can't be sent".to_owned()));
        }
        // A token that is replaced just now may be one that can't be sent, which panics.
        let asked = AssertUnwindSafe(self.source.get_credential()).catch_unwind();
        let credential = match tokio::time::timeout(limit, asked).await {
            Ok(Ok(Ok(credential))) => credential,
            Ok(Ok(Err(error))) => return Err(unsigned(error.to_string())),
            Ok(Err(_)) => {
                return Err(unsigned(
                    "what the source of the credentials is to be asked with can't be sent"
                        .to_owned(),
                ));
            }
            Err(_) => {
                return Err(unsigned(
                    "the source of the credentials is silent".to_owned(),
                ));
            }
        };
        check_credential(&credential).map_err(|wrong| unsigned(wrong.to_owned()))?;
        self.had_some.store(true, Ordering::Relaxed);
        Ok(credential)
    }
}

/// Whether what is in `file` can be the value of a header. What can't be read is told by whoever
/// needs it.
async fn is_sendable(file: PathBuf) -> bool {
    let is_sendable = || match std::fs::read(file) {
        Ok(token) => HeaderValue::from_bytes(&token).is_ok(),
        Err(_) => true,
    };
    tokio::task::spawn_blocking(is_sendable)
        .await
        .unwrap_or(true)
}

/// What `object_store` signs uploads with.
#[async_trait]
impl CredentialProvider for Signing {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current()
            .await
            .map_err(|fault| object_store::Error::Generic {
                store: "S3",
                source: Box::new(fault),
            })
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").finish_non_exhaustive()
    }
}
