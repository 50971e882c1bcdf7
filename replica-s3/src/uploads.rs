//! The stores of `object_store` that uploads are sent by.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use object_store::ClientOptions;
use object_store::aws::{self, AmazonS3, AmazonS3Builder};
use replica_core::Error;

use crate::again::sends_again;
use crate::bucket::{Endpoint, common_headers, unusable_configuration};
use crate::config::{Encryption, S3Config};
use crate::credentials::Signing;
use crate::providers::Checksum;
use crate::transport::Transport;

/// How often an upload's begin and end are sent again, and for how long.
const AGAIN: (usize, Duration) = (3, Duration::from_secs(20));
/// How often an upload's abortion is, and for how long: as long as a server takes to come back.
const PATIENT: (usize, Duration) = (100, Duration::from_secs(60));

/// What the stores that send uploads are made of.
pub(crate) struct Uploads<'a> {
    pub(crate) config: &'a S3Config,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) address: &'a str,
    pub(crate) transport: &'a Transport,
    pub(crate) credentials: Option<&'a Arc<Signing>>,
}

impl Uploads<'_> {
    /// A store that sends each request once.
    pub(crate) fn once(&self) -> Result<AmazonS3, Error> {
        self.store((0, Duration::ZERO))
    }

    /// A store that sends a request again if it fails for a reason that may pass: one lost answer
    /// shall not cost a whole file.
    pub(crate) fn again(&self) -> Result<AmazonS3, Error> {
        self.store(AGAIN)
    }

    /// A store that waits for a server that is started again: nobody waits for what it sends.
    pub(crate) fn patient(&self) -> Result<AmazonS3, Error> {
        self.store(PATIENT)
    }

    fn store(&self, (times, within): (usize, Duration)) -> Result<AmazonS3, Error> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.config.bucket)
            .with_region(&self.endpoint.region)
            // The address is the bucket's, whatever it looks like.
            .with_endpoint(self.address)
            .with_virtual_hosted_style_request(true)
            .with_http_connector(self.transport.clone())
            .with_client_options(
                ClientOptions::new().with_default_headers(common_headers(&self.endpoint.provider)?),
            );
        builder = sends_again(builder, times, within);
        builder = match self.endpoint.provider.checksum {
            Checksum::None => builder,
            Checksum::Sha256 => builder.with_checksum_algorithm(aws::Checksum::SHA256),
        };
        builder = match self.credentials {
            Some(credentials) => builder.with_credentials(Arc::clone(credentials) as _),
            None => builder.with_skip_signature(true),
        };
        builder = match &self.config.encryption {
            Encryption::Bucket => builder,
            Encryption::Kms { key_id, bucket_key } => {
                let builder = builder.with_sse_kms_encryption(key_id);
                match bucket_key {
                    Some(enabled) => builder.with_bucket_key(*enabled),
                    None => builder,
                }
            }
            Encryption::Customer { key } => {
                builder.with_ssec_encryption(BASE64_STANDARD.encode(key))
            }
        };
        builder.build().map_err(unusable_configuration)
    }
}
