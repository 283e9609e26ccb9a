//! What the audit is told of somebody who was refused: what that one hears.

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::journal::audit::Refusal;
use crate::payment::id::CallerName;

/// The longest name of an RPC that is told: ours are shorter.
const RPC_CHARS_MAX: usize = 64;

/// Of a status that was made here.
pub fn refusal(status: &Status, rpc: &str, caller: Option<CallerName>, trace_id: Option<&str>) -> Refusal {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    Refusal {
        caller,
        rpc: rpc.chars().take(RPC_CHARS_MAX).collect(),
        reason,
        why: status.message().to_owned(),
        trace_id: trace_id.map(str::to_owned),
        ..Refusal::default()
    }
}

/// The name of the RPC in a request's path.
pub fn rpc_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
