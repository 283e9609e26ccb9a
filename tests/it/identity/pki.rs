//! Authorities of one's own, and the certificates that they give.

use std::{net::SocketAddr, path::Path, sync::Arc};

use payops::config;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        version::TLS13,
    },
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::support::{TestApp, free_address};

/// Signs what it is asked to.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// What a client brings to a handshake.
pub struct Client<'a> {
    pub trusts: &'a Authority,
    pub shows: Option<&'a Pair>,
    pub protocols: &'a [&'a str],
    pub version: &'static SupportedProtocolVersion,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Two of one name would be taken for each other.
        params.distinguished_name.push(DnType::CommonName, uuid::Uuid::new_v4().to_string());
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server on this machine.
    pub fn server(&self) -> Pair {
        self.signed(|params| {
            params.subject_alt_names = vec![dns("localhost"), SanType::IpAddress([127, 0, 0, 1].into())];
        })
    }

    /// For a client of these names.
    pub fn client(&self, names: &[SanType]) -> Pair {
        self.signed(|params| params.subject_alt_names = names.to_vec())
    }

    /// For a client of these names, from and until years.
    pub fn client_of_years(&self, names: &[SanType], from: i32, until: i32) -> Pair {
        self.signed(|params| {
            params.subject_alt_names = names.to_vec();
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(until, 1, 1);
        })
    }

    pub fn signed(&self, adjust: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// Writes the files of `[server.tls]` into a folder.
pub fn write(folder: &Path, server: &Pair, clients: Option<&Authority>) -> config::Tls {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    config::Tls {
        certificate_file: file("tls.crt", &server.certificate),
        key_file: file("tls.key", &server.key),
        client_ca_file: clients.map(|authority| file("client_ca.crt", &authority.pem())),
        client_certificate_required: false,
        handshake_timeout: std::time::Duration::from_secs(5),
        handshakes_max: 128,
    }
}

/// A boundary that speaks TLS, with health on a listener of its own.
pub async fn boundary(tls: config::Tls, adjust: impl FnOnce(&mut config::Config)) -> TestApp {
    TestApp::start_with(|config| {
        config.server.tls = Some(tls);
        config.server.health_listen = Some(free_address());
        adjust(config);
    })
    .await
}

impl<'a> Client<'a> {
    /// One that does all that is due.
    pub fn of(trusts: &'a Authority) -> Self {
        Self { trusts, shows: None, protocols: &["h2"], version: &TLS13 }
    }

    /// The same with a certificate.
    pub fn showing(trusts: &'a Authority, pair: &'a Pair) -> Self {
        Self { shows: Some(pair), ..Self::of(trusts) }
    }

    /// A handshake, by hand. In TLS 1.3 what the server says to the client's certificate comes with the first read.
    pub async fn shake(&self, app: &TestApp) -> std::io::Result<TlsStream<TcpStream>> {
        self.shake_at(app.address).await
    }

    pub async fn shake_at(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.trusts.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
    }

    /// A channel, as a gRPC client makes it; it connects when it is used.
    pub fn channel(&self, app: &TestApp) -> Channel {
        self.channel_to(app.address)
    }

    pub fn channel_to(&self, address: SocketAddr) -> Channel {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.trusts.pem()))
            .domain_name("localhost");
        if let Some(pair) = self.shows {
            tls = tls.identity(Identity::from_pem(&pair.certificate, &pair.key));
        }
        let endpoint = Channel::from_shared(format!("https://{address}")).unwrap();
        endpoint.tls_config(tls).unwrap().connect_lazy()
    }
}
