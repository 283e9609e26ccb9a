//! The way to the PSP over real TLS: an authority of one's own in front of the simulator.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tonic::Code;

use crate::sandbox::world::World;
use crate::support::TestApp;

const DEMO: &str = "T12345678.demoCard00000000000001";

/// A proxy that ends TLS in front of a server and offers these protocols; gives its URL and the authority's certificate.
pub async fn behind_tls(server: &str, name: &str, protocols: &[&str]) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                // A handshake that the client breaks off is what one of the tests wants.
                let Ok(mut encrypted) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(server).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut encrypted, &mut plain).await);
            });
        }
    });
    (format!("https://localhost:{port}"), authority.pem())
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_the_configuration_names_it() {
    let world = World::start().await;
    let (url, authority) = behind_tls(world.base.strip_prefix("http://").unwrap(), "localhost", &[]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority).unwrap();
    let app = TestApp::start_in(world, |config| {
        config.psp.base_url = url.parse().unwrap();
        config.psp.token_base_url = url.parse().unwrap();
        config.psp.ca_file = Some(file.path().to_owned());
    })
    .await;
    app.orders().await.capture("k", DEMO, 29_990).await.unwrap();
    assert_eq!(app.moved(DEMO).await, [("capture".to_owned(), 29_990)]);
}

/// A certificate of nobody that is known, or of another name: no byte of a request leaves, and the key stays free.
#[tokio::test]
async fn a_server_that_cannot_prove_who_it_is_gets_neither_credentials_nor_money() {
    for trusted in [false, true] {
        let world = World::start().await;
        let name = if trusted { "another-name.example" } else { "localhost" };
        let (url, authority) = behind_tls(world.base.strip_prefix("http://").unwrap(), name, &[]).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority).unwrap();
        let app = TestApp::start_in(world, |config| {
            // The token still comes the plain way: it is the capture that is looked at.
            config.psp.base_url = url.parse().unwrap();
            config.psp.ca_file = trusted.then(|| file.path().to_owned());
        })
        .await;
        let orders = app.orders().await;
        let refused = orders.capture("k", DEMO, 29_990).await.unwrap_err();
        assert_eq!((refused.code, refused.reason()), (Code::Unavailable, "PSP_UNREACHABLE"));
        assert_eq!(refused.metadata("safe_to_use_new_key"), Some("true"));
        assert_eq!(app.posts(DEMO).await, 0);
    }
}
