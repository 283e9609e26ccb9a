//! Who calls: certificates and tokens, and who is not let in by them.

mod certificates;
pub mod pki;
mod tls;
