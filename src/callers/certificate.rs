//! What a client's certificate says of whose it is. The handshake has proven
//! that the client holds its key, and which authority gave it.

use webpki::EndEntityCert;

/// Longest SPIFFE id; the standard's own limit.
const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// What a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// A workload, by its SPIFFE id: `spiffe://example.org/ns/shop/sa/orders`.
    Spiffe(String),
    /// Hosts, by their DNS names in lower case.
    Dns(Vec<String>),
    /// Nobody, for this reason.
    Nobody(&'static str),
}

impl Certificate {
    /// Reads the names of a certificate (DER). Where there is a SPIFFE id it has to be the only URI, as the standard
    /// wants, and DNS names beside it count for nothing.
    pub fn read(der: &rustls::pki_types::CertificateDer<'_>) -> Self {
        let Ok(certificate) = EndEntityCert::try_from(der) else {
            return Self::Nobody("the certificate cannot be read");
        };
        let uris: Vec<&str> = certificate.valid_uri_names().collect();
        let begins = |uri: &&str| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"));
        match *uris {
            [only] if is_spiffe_id(only) => Self::Spiffe(only.to_owned()),
            [only] if begins(&only) => Self::Nobody("the certificate's SPIFFE id is not well-formed"),
            _ if uris.iter().any(begins) => {
                Self::Nobody("the certificate has more than one URI, and a SPIFFE id stands alone")
            }
            _ => {
                let names: Vec<_> = certificate.valid_dns_names().map(str::to_ascii_lowercase).collect();
                if names.is_empty() {
                    Self::Nobody("the certificate has neither a SPIFFE id nor a DNS name")
                } else {
                    Self::Dns(names)
                }
            }
        }
    }
}

/// A SPIFFE id with a path, in the one form that the standard allows: nothing to be decoded, nothing to be resolved.
pub(super) fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
    text.len() <= SPIFFE_ID_BYTES_MAX
        && (1..=255).contains(&domain.len())
        && domain.bytes().all(in_domain)
        && path.split('/').all(is_segment)
}

/// A whole DNS name in lower case, without wildcards.
pub(super) fn is_dns_name(text: &str) -> bool {
    let in_label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(in_label)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn read(names: &[SanType]) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::read(certificate.der())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn a_spiffe_id_stands_alone_and_comes_before_dns_names() {
        let id = "spiffe://example.org/ns/shop/sa/orders";
        let spiffe = Certificate::Spiffe(id.to_owned());
        assert_eq!(read(&[uri(id)]), spiffe);
        assert_eq!(read(&[dns("orders.example"), uri(id)]), spiffe);
        for several in [
            &[uri(id), uri("spiffe://example.org/other")][..],
            &[uri(id), uri("https://example.org")],
            &[uri("https://example.org"), uri("https://example.com"), uri(id)],
            &[uri("https://example.org"), uri("SPIFFE://example.org/a")],
        ] {
            assert!(
                matches!(read(several), Certificate::Nobody(why) if why.contains("stands alone")),
                "{several:?}"
            );
        }
        for malformed in ["spiffe://example.org", "SPIFFE://example.org/a", "spiffe://example.org/a/../b"] {
            let told = read(&[uri(malformed), dns("orders.example")]);
            assert!(
                matches!(told, Certificate::Nobody(why) if why.contains("not well-formed")),
                "{malformed}"
            );
        }
    }

    #[test]
    fn dns_names_are_read_where_there_is_no_spiffe_id() {
        let names = Certificate::Dns(vec!["orders.example".to_owned(), "www.example".to_owned()]);
        assert_eq!(read(&[dns("Orders.example"), dns("www.example")]), names);
        assert_eq!(read(&[uri("https://example.org"), dns("orders.example"), dns("www.example")]), names);
        for nobody in [&[][..], &[SanType::IpAddress([127, 0, 0, 1].into())], &[uri("https://example.org")]] {
            assert!(
                matches!(read(nobody), Certificate::Nobody(why) if why.contains("neither")),
                "{nobody:?}"
            );
        }
        let garbage = rustls::pki_types::CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        assert!(matches!(Certificate::read(&garbage), Certificate::Nobody(_)));
    }

    #[test]
    fn a_spiffe_id_has_one_form() {
        let long = format!("spiffe://example.org/{}", "a".repeat(2048));
        for id in ["spiffe://example.org/a", "spiffe://prod_1.example.org/ns/Shop/sa/orders-1.x"] {
            assert!(is_spiffe_id(id), "{id}");
        }
        for wrong in [
            "",
            "spiffe://",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe:///a",
            "spiffe://Example.org/a",
            "spiffe://example.org:8443/a",
            "spiffe://user@example.org/a",
            "spiffe://example.org//a",
            "spiffe://example.org/a/",
            "spiffe://example.org/./a",
            "spiffe://example.org/a/..",
            "spiffe://example.org/a%2Fb",
            "spiffe://example.org/a?b",
            "spiffe://example.org/a#b",
            "spiffe://example.org/å",
            "https://example.org/a",
            &long,
        ] {
            assert!(!is_spiffe_id(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_dns_name_is_whole_and_plain() {
        for name in ["orders", "orders.shop.svc.cluster.local", "a-b.c_d.e1"] {
            assert!(is_dns_name(name), "{name}");
        }
        for wrong in
            ["", ".", "a.", ".a", "a..b", "*.example", "Orders", "-a", "a-", "a b", "å", &"a".repeat(64)]
        {
            assert!(!is_dns_name(wrong), "{wrong}");
        }
    }
}
