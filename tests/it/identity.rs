//! Who calls: certificates and tokens, and who is not let in by them.

mod apart;
mod attacks;
mod certificates;
mod docs;
pub mod issuer;
pub mod pki;
pub mod tls;
mod tokens;
