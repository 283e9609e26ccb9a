//! What the audit is told of somebody who was refused: what that one hears.

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::journal::audit::Refusal;
use crate::payment::id::CallerName;
use crate::policy::Rpc;

/// Of a status that was made here.
pub fn refusal(
    status: &Status,
    rpc: &'static str,
    caller: Option<CallerName>,
    trace_id: Option<&str>,
) -> Refusal {
    let reason = reason(status);
    Refusal {
        caller,
        rpc: rpc.to_owned(),
        reason,
        why: status.message().to_owned(),
        trace_id: trace_id.map(str::to_owned),
        ..Refusal::default()
    }
}

/// The word that a caller is told for a reason, in a status that was made here.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The RPC that a request's path names; what a stranger makes up is no name.
pub fn rpc_of(path: &str) -> &'static str {
    const REVIEWS: [&str; 4] =
        ["ListOperations", "GetOperationEvidence", "WatchOperationRecord", "ResolveOperation"];
    let name = path.rsplit('/').next().unwrap_or_default();
    let review = || REVIEWS.into_iter().find(|known| *known == name);
    Rpc::of_path(path).map(Rpc::as_str).or_else(review).unwrap_or("unknown")
}
