//! TLS before a server that has none.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::port::Port;

/// A relay that speaks TLS with clients, and passes on what they say to a server in the clear.
///
/// Its certificate is for `127.0.0.1` and for no name, and comes from an authority of its own,
/// which nobody trusts who wasn't told to.
pub struct TlsRelay {
    authority: String,
    port: Port,
}

impl TlsRelay {
    /// Starts a relay before `upstream`.
    pub fn before(upstream: SocketAddr) -> Self {
        let (authority, config) = identity();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let port = Port::open(move |client| {
            let acceptor = acceptor.clone();
            async move {
                // A client that doesn't trust us ends its connection and nothing else.
                if let Ok(mut client) = acceptor.accept(client).await
                    && let Ok(mut server) = TcpStream::connect(upstream).await
                {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            }
        });
        Self { authority, port }
    }

    /// `https://` and the address.
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The certificate of the authority, in PEM form.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl Deref for TlsRelay {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl fmt::Debug for TlsRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsRelay")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// A new authority's certificate, and what a server needs that it vouches for.
fn identity() -> (String, ServerConfig) {
    let new_key = || KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = new_key();
    let authority = params.self_signed(&key).expect("a key signs");
    let issuer = Issuer::new(params, key);

    let key = new_key();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&key, &issuer))
        .expect("an address can be vouched for");
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the library has what it wants")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("the key is the certificate's");
    (authority.pem(), config)
}
