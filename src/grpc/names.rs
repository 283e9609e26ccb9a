//! What calls and their answers are called in traces and metrics.

use tonic::Code;

/// The RPCs that have a name of their own; whatever else is called has none.
const RPCS: [&str; 10] = [
    "payops.v1.PaymentOperationsService/Capture",
    "payops.v1.PaymentOperationsService/Void",
    "payops.v1.PaymentOperationsService/Refund",
    "payops.v1.PaymentOperationsService/GetTransaction",
    "payops.v1.PaymentOperationsService/GetOperation",
    "payops.v1.PaymentOperationsService/WatchOperation",
    "payops.v1.OperationReviewService/ListOperations",
    "payops.v1.OperationReviewService/GetOperationEvidence",
    "payops.v1.OperationReviewService/WatchOperationRecord",
    "payops.v1.OperationReviewService/ResolveOperation",
];

/// The RPC of that path, if it is one of ours.
pub fn rpc(path: &str) -> Option<&'static str> {
    let path = path.trim_start_matches('/');
    RPCS.into_iter().find(|rpc| *rpc == path)
}

/// As gRPC writes it.
pub fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether the code says that the server failed, and not that it refused.
pub fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
