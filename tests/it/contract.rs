//! The contract as a whole: every RPC that there is, held against what is promised of all of them.

use std::collections::BTreeSet;

use payops::grpc::pb;
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};
use serde_json::Value;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_types::StatusExt as _;

use crate::support::{REVIEW_SERVICE, TestApp};

/// Those that move nothing; every other RPC needs a key.
const KEYLESS: &[&str] = &[
    "GetTransaction",
    "GetOperation",
    "WatchOperation",
    "ListOperations",
    "GetOperationEvidence",
    "WatchOperationRecord",
    "ResolveOperation",
];
/// Asks for everything where nothing is said.
const LISTS: &str = "ListOperations";

fn files() -> Vec<FileDescriptorProto> {
    FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap().file
}

fn services() -> Vec<ServiceDescriptorProto> {
    let ours = files().into_iter().filter(|file| file.package() == "payops.v1");
    let services: Vec<_> = ours.flat_map(|file| file.service).collect();
    assert!(!services.is_empty());
    services
}

/// Every RPC: its name and its path.
pub fn methods() -> Vec<(String, String)> {
    let path =
        |service: &ServiceDescriptorProto, method: &str| format!("/payops.v1.{}/{method}", service.name());
    let methods: Vec<_> = services()
        .iter()
        .flat_map(|service| {
            service.method.iter().map(|method| (method.name().to_owned(), path(service, method.name())))
        })
        .collect();
    assert!(methods.len() >= 10, "{methods:?}");
    methods
}

/// Calls an RPC, whichever it is, with an empty message.
pub async fn call_empty(channel: &Channel, path: &str, token: Option<&str>) -> Status {
    let mut request = Request::new(());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match client.server_streaming(request, path.parse().unwrap(), codec).await {
        Err(status) => status,
        Ok(mut stream) => stream.get_mut().message().await.expect_err("an empty message has no answer"),
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn every_rpc_that_moves_money_needs_a_key() {
    let app = TestApp::start().await;
    let channel = app.channel().await;
    let mut money = 0;
    for (name, path) in methods() {
        if name == LISTS {
            continue;
        }
        let refused = call_empty(&channel, &path, Some("token-of-anna")).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused:?}");
        if KEYLESS.contains(&name.as_str()) {
            assert_eq!(reason(&refused), "INVALID_REQUEST", "{name}");
        } else {
            money += 1;
            assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_MISSING", "{name}");
        }
    }
    assert_eq!(money, 3);
}

#[tokio::test]
async fn every_rpc_needs_a_caller() {
    let app = TestApp::start().await;
    let channel = app.channel().await;
    for (name, path) in methods() {
        let refused = call_empty(&channel, &path, None).await;
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unauthenticated, "CREDENTIALS_MISSING"),
            "{name}"
        );
        let refused = call_empty(&channel, &path, Some("token-of-nobody")).await;
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unauthenticated, "CREDENTIALS_INVALID"),
            "{name}"
        );
    }
}

/// Whoever may not review is told so, whatever is asked; whoever may, may move money as before.
#[tokio::test]
async fn every_rpc_of_the_review_service_needs_a_reviewer() {
    let app = TestApp::start().await;
    let channel = app.channel().await;
    let (mut refused, mut served) = (0, 0);
    for (name, path) in methods() {
        if !path.contains(REVIEW_SERVICE) {
            served += 1;
            continue;
        }
        refused += 1;
        let told = call_empty(&channel, &path, Some("token-of-orders")).await;
        assert_eq!(
            (told.code(), reason(&told).as_str()),
            (Code::PermissionDenied, "RPC_NOT_ALLOWED"),
            "{name}: {told:?}"
        );
        assert!(told.message().contains("review = true"), "{told:?}");
    }
    assert_eq!((refused, served), (4, 6));
}

/// What `grpcurl describe` shows, and what generated code carries.
#[test]
fn everything_in_the_contract_has_a_comment() {
    for file in files().into_iter().filter(|file| file.package() == "payops.v1") {
        let described: BTreeSet<Vec<i32>> = file
            .source_code_info
            .as_ref()
            .unwrap()
            .location
            .iter()
            .filter(|location| !location.leading_comments().trim().is_empty())
            .map(|location| location.path.clone())
            .collect();
        // The numbers are descriptor.proto's: message_type 4, enum_type 5, service 6; field 2, value 2, method 2.
        let mut wanted: Vec<(String, Vec<i32>)> = Vec::new();
        let index = |n: usize| i32::try_from(n).unwrap();
        for (m, message) in file.message_type.iter().enumerate() {
            wanted.push((message.name().to_owned(), vec![4, index(m)]));
            for (f, field) in message.field.iter().enumerate() {
                wanted.push((format!("{}.{}", message.name(), field.name()), vec![4, index(m), 2, index(f)]));
            }
        }
        for (e, kind) in file.enum_type.iter().enumerate() {
            wanted.push((kind.name().to_owned(), vec![5, index(e)]));
            for (v, value) in kind.value.iter().enumerate() {
                wanted.push((value.name().to_owned(), vec![5, index(e), 2, index(v)]));
            }
        }
        for (s, service) in file.service.iter().enumerate() {
            wanted.push((service.name().to_owned(), vec![6, index(s)]));
            for (m, method) in service.method.iter().enumerate() {
                wanted.push((method.name().to_owned(), vec![6, index(s), 2, index(m)]));
            }
        }
        for (name, path) in wanted {
            assert!(described.contains(&path), "{name} has no comment in {}", file.name());
        }
    }
}

/// The published retry policy names RPCs that exist, and retries exactly the codes that the contract calls safe.
#[test]
fn the_published_service_config_fits_the_contract() {
    let config: Value =
        serde_json::from_str(include_str!("../../proto/payops/v1/service_config.json")).unwrap();
    let mut configured = BTreeSet::new();
    for entry in config["methodConfig"].as_array().unwrap() {
        let retry = &entry["retryPolicy"];
        let names = entry["name"].as_array().unwrap();
        for name in names {
            let method = name["method"].as_str().unwrap();
            configured.insert(format!("/{}/{method}", name["service"].as_str().unwrap()));
        }
        let codes: BTreeSet<&str> = retry["retryableStatusCodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|code| code.as_str().unwrap())
            .collect();
        assert_eq!(codes, BTreeSet::from(["ABORTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"]), "{names:?}");
        // gRPC A6: 2 to 5 attempts, durations in seconds with an "s".
        assert!((2..=5).contains(&retry["maxAttempts"].as_i64().unwrap()));
        for duration in ["initialBackoff", "maxBackoff"] {
            let seconds = retry[duration].as_str().unwrap().strip_suffix('s').unwrap();
            assert!(seconds.parse::<f32>().unwrap() > 0.0, "{duration}");
        }
        assert!(retry["backoffMultiplier"].as_f64().unwrap() >= 1.0);
    }
    let all: BTreeSet<String> = methods().into_iter().map(|(_, path)| path).collect();
    assert_eq!(configured, all);
}
