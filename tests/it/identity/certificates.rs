//! Callers by their certificates, end to end: each forged one is refused at the handshake or by the first answer, and
//! the good ones are let in, as whom they are.

use std::io::Write as _;

use payops::grpc::pb::{self, payment_operations_service_client::PaymentOperationsServiceClient};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use tokio::io::AsyncReadExt as _;
use tonic::{Code, Request, transport::Channel};

use super::pki::{Authority, Client, Pair, boundary, dns, uri, write};
use crate::place::{run, text};
use crate::support::{Refused, TestApp, eventually, refused};

const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";
const RETURNS: &str = "spiffe://example.org/ns/shop/sa/returns";

/// What has to come of it.
enum Due {
    /// It is this caller.
    Caller(&'static str),
    /// The handshake ends with this alert.
    Alert(&'static str),
    /// The call is answered with this reason, and these words.
    Refused(&'static str, &'static str),
}
use Due::{Alert, Caller};

/// One client: its name, what it shows, the token it sends, and what has to come of it.
type Row = (&'static str, Option<Pair>, Option<&'static str>, Due);

fn invalid(words: &'static str) -> Due {
    Due::Refused("CREDENTIALS_INVALID", words)
}

fn missing() -> Due {
    Due::Refused("CREDENTIALS_MISSING", "show a certificate")
}

/// A boundary that knows two callers by their certificates, too, and an operation of each.
async fn start(authority: &Authority, required: bool) -> (TestApp, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut tls = write(folder.path(), &authority.server(), Some(authority));
    tls.client_certificate_required = required;
    let app = boundary(tls, |config| {
        let text = std::fs::read_to_string(&config.callers.file).unwrap();
        let known = |text: String, name: &str, id: &str| {
            let names = format!("certificate_names = [\"{id}\", \"{name}.example\"]");
            let entry = format!("name = \"{name}\"\n");
            assert!(text.contains(&entry));
            text.replace(&entry, &format!("{entry}{names}\n"))
        };
        let text = known(known(text, "orders", ORDERS), "returns", RETURNS);
        std::fs::write(&config.callers.file, text).unwrap();
    })
    .await;
    for name in ["orders", "returns"] {
        let card = app.world.card().await;
        let pair = authority.client(&[dns(&format!("{name}.example"))]);
        let mut client = PaymentOperationsServiceClient::new(Client::showing(authority, &pair).channel(&app));
        let mut request = Request::new(crate::support::capture(&card, 100));
        request.metadata_mut().insert("idempotency-key", format!("of-{name}").parse().unwrap());
        client.capture(request).await.unwrap();
    }
    (app, folder)
}

/// Who the boundary takes a client for: the one whose key it knows.
async fn who(channel: &Channel, token: Option<&str>) -> Result<&'static str, Box<Refused>> {
    let mut client = PaymentOperationsServiceClient::new(channel.clone());
    for name in ["orders", "returns"] {
        let key = pb::get_operation_request::Name::IdempotencyKey(format!("of-{name}"));
        let mut request = Request::new(pb::GetOperationRequest { name: Some(key) });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        match client.get_operation(request).await {
            Ok(_) => return Ok(name),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(refused(status)),
        }
    }
    panic!("somebody else is let in");
}

/// Lets each row try, and tells all that is wrong at once.
async fn hold(app: &TestApp, authority: &Authority, rows: Vec<Row>) {
    println!("{} rows of certificates", rows.len());
    let mut wrong = Vec::new();
    for (name, pair, token, due) in rows {
        let client = Client { shows: pair.as_ref(), ..Client::of(authority) };
        let told = match due {
            Alert(alert) => {
                let told = alert_of(&client, app).await;
                (!told.contains(&format!("alert: {alert}"))).then_some(told)
            }
            Caller(due) => match who(&client.channel(app), token).await {
                Ok(told) if told == due => None,
                other => Some(format!("{other:?}")),
            },
            Due::Refused(reason, words) => match who(&client.channel(app), token).await {
                Err(told) if told.reason() == reason && told.status.message().contains(words) => {
                    assert_eq!(told.code, Code::Unauthenticated);
                    None
                }
                other => Some(format!("{other:?}")),
            },
        };
        wrong.extend(told.map(|told| format!("{name}: {told}")));
        let next = who(&Client::of(authority).channel(app), Some("token-of-orders")).await;
        if !app.config.server.tls.as_ref().unwrap().client_certificate_required && next.is_err() {
            wrong.push(format!("{name}: the next caller is not served"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What the server says to the certificate: with the handshake, or with the first read after it.
async fn alert_of(client: &Client<'_>, app: &TestApp) -> String {
    match client.shake(app).await {
        Err(error) => error.to_string(),
        Ok(mut stream) => match stream.read(&mut [0; 64]).await {
            Err(error) => error.to_string(),
            Ok(read) => format!("it is let in, and reads {read} bytes"),
        },
    }
}

/// A certificate that a client gave, who is no authority.
fn given_by_a_client(authority: &Authority) -> Pair {
    let params = CertificateParams::new(Vec::new()).unwrap();
    let client = authority.client(&[uri(RETURNS)]);
    let key = KeyPair::from_pem(&client.key).unwrap();
    let client_as_issuer = CertifiedIssuer::self_signed(params, key).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![uri(ORDERS)];
    let key = KeyPair::generate().unwrap();
    let forged = params.signed_by(&key, &client_as_issuer).unwrap();
    Pair { certificate: forged.pem() + &client.certificate, key: key.serialize_pem() }
}

fn with_common_name(authority: &Authority, name: &str) -> Pair {
    authority.signed(|params| {
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    })
}

#[tokio::test]
async fn the_certificate_says_who_calls_and_a_forged_one_gets_nobody_in() {
    let authority = Authority::new();
    let (app, _folder) = start(&authority, false).await;
    let names = |names: &[SanType]| Some(authority.client(names));
    let by_orders = || names(&[uri(ORDERS)]);
    let stranger = Authority::new();
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        // Let in.
        ("a SPIFFE id", by_orders(), None, Caller("orders")),
        ("another one", names(&[uri(RETURNS)]), None, Caller("returns")),
        ("a DNS name", names(&[dns("orders.example")]), None, Caller("orders")),
        ("a DNS name in capitals", names(&[dns("ORDERS.example")]), None, Caller("orders")),
        ("a DNS name beside a stranger's", names(&[dns("x.example"), dns("returns.example")]), None, Caller("returns")),
        ("a SPIFFE id beside another caller's DNS name", names(&[uri(ORDERS), dns("returns.example")]), None, Caller("orders")),
        ("a certificate and a token of one caller", by_orders(), Some("token-of-orders"), Caller("orders")),
        ("a proxy's certificate and a token", names(&[dns("proxy.example")]), Some("token-of-orders"), Caller("orders")),
        ("a token alone", None, Some("token-of-returns"), Caller("returns")),
        // Turned away at the handshake.
        ("expired", Some(authority.client_of_years(&[uri(ORDERS)], 2019, 2020)), None, Alert("CertificateExpired")),
        ("not yet valid", Some(authority.client_of_years(&[uri(ORDERS)], 2097, 2098)), None, Alert("CertificateExpired")),
        ("expired, with a good token", Some(authority.client_of_years(&[uri(ORDERS)], 2019, 2020)), Some("token-of-orders"), Alert("CertificateExpired")),
        ("of another authority", Some(stranger.client(&[uri(ORDERS)])), None, Alert("UnknownCA")),
        ("signed by itself", Some(self_signed(&[uri(ORDERS)])), None, Alert("UnknownCA")),
        ("given by a client", Some(given_by_a_client(&authority)), None, Alert("")),
        ("for servers alone", Some(authority.signed(|params| {
            params.subject_alt_names = vec![uri(ORDERS)];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })), None, Alert("")),
        ("an authority's own", Some(authority.signed(|params| {
            params.subject_alt_names = vec![uri(ORDERS)];
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        })), None, Alert("")),
        ("changed after it was signed", Some(changed(&authority)), None, Alert("")),
        // Nobody's.
        ("no certificate and no token", None, None, missing()),
        ("no name at all", names(&[]), None, invalid("neither a SPIFFE id nor a DNS name")),
        ("a common name alone", Some(with_common_name(&authority, "orders.example")), None, invalid("neither a SPIFFE id")),
        ("a stranger's SPIFFE id", names(&[uri("spiffe://example.org/ns/shop/sa/stock")]), None, invalid("SPIFFE id is no caller's")),
        ("another trust domain", names(&[uri("spiffe://example.com/ns/shop/sa/orders")]), None, invalid("SPIFFE id is no caller's")),
        ("a longer path", names(&[uri("spiffe://example.org/ns/shop/sa/orders/x")]), None, invalid("SPIFFE id is no caller's")),
        ("a shorter path", names(&[uri("spiffe://example.org/ns/shop/sa/order")]), None, invalid("SPIFFE id is no caller's")),
        ("a path in other letters", names(&[uri("spiffe://example.org/ns/shop/sa/Orders")]), None, invalid("SPIFFE id is no caller's")),
        ("dots in the path", names(&[uri("spiffe://example.org/ns/shop/sa/x/../orders")]), None, invalid("not well-formed")),
        ("an escape in the path", names(&[uri("spiffe://example.org/ns/shop/sa/%6Frders")]), None, invalid("not well-formed")),
        ("a scheme in capitals", names(&[uri("SPIFFE://example.org/ns/shop/sa/orders")]), None, invalid("not well-formed")),
        ("two SPIFFE ids", names(&[uri(ORDERS), uri(RETURNS)]), None, invalid("stands alone")),
        ("a SPIFFE id and another URI", names(&[uri("https://example.org"), uri(ORDERS)]), None, invalid("stands alone")),
        ("another URI of the same path", names(&[uri("https://example.org/ns/shop/sa/orders")]), None, invalid("neither a SPIFFE id")),
        ("a stranger's SPIFFE id and a caller's DNS name", names(&[uri("spiffe://example.org/x"), dns("orders.example")]), None, invalid("SPIFFE id is no caller's")),
        ("a stranger's DNS name", names(&[dns("stock.example")]), None, invalid("none of the certificate's DNS names")),
        ("a wildcard", names(&[dns("*.shop.example")]), None, invalid("none of the certificate's DNS names")),
        ("a DNS name below a caller's", names(&[dns("x.orders.example")]), None, invalid("none of the certificate's DNS names")),
        ("the DNS names of two callers", names(&[dns("orders.example"), dns("returns.example")]), None, invalid("those of several callers")),
        ("another caller's token", by_orders(), Some("token-of-returns"), invalid("those of two callers")),
        ("a token that is not known", by_orders(), Some("token-of-nobody"), invalid("the token is not known")),
        ("no name, and a token that is not known", names(&[]), Some("x"), invalid("the token is not known")),
    ];
    hold(&app, &authority, rows).await;
}

#[tokio::test]
async fn where_a_certificate_is_required_nobody_comes_in_without_one() {
    let authority = Authority::new();
    let (app, _folder) = start(&authority, true).await;
    let stranger = Authority::new();
    let rows: Vec<Row> = vec![
        ("a SPIFFE id", Some(authority.client(&[uri(ORDERS)])), None, Caller("orders")),
        (
            "a proxy's, and a token",
            Some(authority.client(&[dns("x.example")])),
            Some("token-of-returns"),
            Caller("returns"),
        ),
        ("none, and a good token", None, Some("token-of-orders"), Alert("CertificateRequired")),
        (
            "of another authority",
            Some(stranger.client(&[uri(ORDERS)])),
            Some("token-of-orders"),
            Alert("UnknownCA"),
        ),
    ];
    hold(&app, &authority, rows).await;
}

/// What a proxy writes into a header is not what the connection proved.
#[tokio::test]
async fn a_header_is_no_certificate() {
    let authority = Authority::new();
    let (app, _folder) = start(&authority, false).await;
    let mut client = PaymentOperationsServiceClient::new(Client::of(&authority).channel(&app));
    for header in ["x-forwarded-client-cert", "x-client-cert", "ssl-client-cert", "x-spiffe-id", "forwarded"]
    {
        let key = pb::get_operation_request::Name::IdempotencyKey("of-orders".to_owned());
        let mut request = Request::new(pb::GetOperationRequest { name: Some(key) });
        request.metadata_mut().insert(header, format!("URI={ORDERS}").parse().unwrap());
        let told = refused(client.get_operation(request).await.unwrap_err());
        assert_eq!((told.code, told.reason()), (Code::Unauthenticated, "CREDENTIALS_MISSING"), "{header}");
    }
}

/// Who is taken out of the callers file is out, on connections that are open as well.
#[tokio::test]
async fn a_caller_who_is_removed_is_refused_on_the_connection_that_is_open() {
    let authority = Authority::new();
    let (app, _folder) = start(&authority, false).await;
    let pair = authority.client(&[uri(ORDERS)]);
    let channel = Client::showing(&authority, &pair).channel(&app);
    assert_eq!(who(&channel, None).await.unwrap(), "orders");
    let text = std::fs::read_to_string(&app.config.callers.file).unwrap();
    let mut file = std::fs::File::create(&app.config.callers.file).unwrap();
    file.write_all(text.replace(ORDERS, "spiffe://example.org/nobody").as_bytes()).unwrap();
    eventually("it is refused", async || {
        who(&channel, None).await.is_err_and(|told| told.reason() == "CREDENTIALS_INVALID")
    })
    .await;
}

/// The command shows a certificate, too: a person may have one in place of a token.
#[tokio::test(flavor = "multi_thread")]
async fn a_reviewer_may_come_by_certificate_at_the_terminal() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let mut tls = write(folder.path(), &authority.server(), Some(&authority));
    tls.client_certificate_required = true;
    let app = boundary(tls, |config| {
        let text = std::fs::read_to_string(&config.callers.file).unwrap();
        let anna = "name = \"anna\"\n";
        let names = "certificate_names = [\"spiffe://example.org/people/anna\"]\n";
        std::fs::write(&config.callers.file, text.replace(anna, &format!("{anna}{names}"))).unwrap();
    })
    .await;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let anna = authority.client(&[uri("spiffe://example.org/people/anna")]);
    for (name, text) in [("ca", &authority.pem()), ("crt", &anna.certificate), ("key", &anna.key)] {
        std::fs::write(path(name), text).unwrap();
    }
    let address = format!("https://localhost:{}", app.address.port());
    let (ca, certificate, key) = (path("ca"), path("crt"), path("key"));
    let asking = ["operations", "list", "--address", &address, "--ca-file", &ca];
    let shown = ["--certificate-file", &certificate, "--key-file", &key];
    let listed = run(&[&asking[..], &shown].concat()).await;
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    assert!(text(&listed.stdout).contains("no operation fits"), "{}", text(&listed.stdout));
    let nobody = run(&asking).await;
    assert_eq!(nobody.status.code(), Some(78), "{}", text(&nobody.stderr));
    let half = run(&[&asking[..], &shown[..2]].concat()).await;
    assert_eq!(half.status.code(), Some(2), "{}", text(&half.stderr));
    let plain = run(&[&["operations", "list", "--address", "http://127.0.0.1:1"], &shown[..]].concat()).await;
    assert!(text(&plain.stderr).contains("--certificate-file is for https://"), "{}", text(&plain.stderr));
}

fn self_signed(names: &[SanType]) -> Pair {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = names.to_vec();
    let key = KeyPair::generate().unwrap();
    Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// The certificate of another caller, with the name changed under its signature.
fn changed(authority: &Authority) -> Pair {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let pair = authority.client(&[uri(RETURNS)]);
    let lines: String = pair.certificate.lines().filter(|line| !line.starts_with('-')).collect();
    let mut der = STANDARD.decode(lines).unwrap();
    let at = der.windows(7).position(|bytes| bytes == b"returns").unwrap();
    der[at..at + 7].copy_from_slice(b"orders1");
    let certificate =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der));
    Pair { certificate, ..pair }
}
