//! The chart: what it promises of each shape, and what it refuses. The manifests themselves are shown to a real
//! kube-apiserver in [`cluster`].

mod cluster;

use std::process::Command;

use serde::Deserialize as _;
use serde_json::Value;

const CALLERS: &str = "callers.toml=[[caller]]";

/// Value sets: a name, and what is set.
const SETS: [(&str, &[&str]); 14] = [
    ("sandbox", &["sandbox.enabled=true"]),
    ("embedded", &[ACCOUNT]),
    ("embedded, first installation", &[ACCOUNT, "journal.new=true"]),
    (
        "embedded, everything by secrets",
        &[
            ACCOUNT,
            "tls.existingSecret=tls",
            "tls.clientCaSecret=clients",
            "tls.clientCertificateRequired=true",
            "audit.existingSecret=audit",
            "webhook.enabled=true",
            "webhook.existingSecret=webhook",
            "journal.volume.storageClass=fast",
        ],
    ),
    ("postgres", &[POSTGRES, DATABASE, ACCOUNT]),
    (
        "postgres, migrated by its owner",
        &[
            POSTGRES,
            DATABASE,
            ACCOUNT,
            "postgres.caSecret=ca",
            "postgres.migration.url=postgres://owner@db.example/payops",
            "postgres.migration.existingSecret=owner",
        ],
    ),
    ("postgres, scaled", &[POSTGRES, DATABASE, ACCOUNT, "autoscaling.enabled=true", "autoscaling.max=9"]),
    ("postgres with a sandbox", &[POSTGRES, DATABASE, "sandbox.enabled=true"]),
    ("istio", &[ACCOUNT, "mesh=istio"]),
    ("linkerd", &[ACCOUNT, "mesh=linkerd"]),
    (
        "certificates",
        &[
            ACCOUNT,
            "tls.certManager.enabled=true",
            "tls.certManager.issuerRef.kind=ClusterIssuer",
            "tls.certManager.issuerRef.name=internal",
        ],
    ),
    (
        "external secrets",
        &[
            ACCOUNT,
            "externalSecrets.storeRef.kind=ClusterSecretStore",
            "externalSecrets.storeRef.name=vault",
            "externalSecrets.secrets[0].name=dintero",
            "externalSecrets.secrets[0].data.client_id=payments/dintero#id",
            "externalSecrets.secrets[0].data.client_secret=payments/dintero#secret",
        ],
    ),
    (
        "watched",
        &[
            ACCOUNT,
            "metrics.serviceMonitor=true",
            "metrics.prometheusRule=true",
            "metrics.dashboards=true",
            "metrics.labels.release=prometheus",
            "telemetry.endpoint=http://collector.observability:4317",
        ],
    ),
    (
        "placed and slow",
        &[
            ACCOUNT,
            "timeouts.psp=60",
            "nodeSelector.disk=fast",
            "podLabels.team=payments",
            "imagePullSecrets[0].name=registry",
            "networkPolicy.callers[0].namespaceSelector.matchLabels.team=orders",
        ],
    ),
];

const ACCOUNT: &str = "accounts[0].id=T12345678,accounts[0].existingSecret=dintero";
const DATABASE: &str = "postgres.url=postgres://payops@db.example/payops,postgres.existingSecret=database";
const POSTGRES: &str = "shape=postgres";

fn chart() -> String {
    format!("{}/helm/payops", env!("CARGO_MANIFEST_DIR"))
}

/// What helm says, and whether it went well.
fn helm(arguments: &[&str], set: &[&str]) -> (bool, String) {
    let mut command = Command::new("helm");
    command.args(arguments).args(["--set-string", CALLERS]);
    for value in set {
        command.args(["--set", value]);
    }
    let run = command.output().expect("helm is there: tests/run installs it");
    let told = if run.status.success() { run.stdout } else { [run.stdout, run.stderr].concat() };
    (run.status.success(), String::from_utf8(told).unwrap())
}

/// The manifests of a set.
fn rendered(set: &[&str]) -> Vec<Value> {
    let (well, text) = helm(&["template", "pay", &chart(), "--namespace", "payments"], set);
    assert!(well, "{set:?}: {text}");
    let documents = serde_norway::Deserializer::from_str(&text);
    let all: Vec<Value> = documents.map(|document| Value::deserialize(document).unwrap()).collect();
    all.into_iter().filter(|manifest| !manifest.is_null()).collect()
}

fn set(name: &str) -> Vec<Value> {
    rendered(SETS.iter().find(|(of, _)| *of == name).unwrap().1)
}

fn of<'a>(manifests: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |manifest: &&Value| manifest["kind"] == kind && manifest["metadata"]["name"] == name;
    manifests.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn has(manifests: &[Value], kind: &str) -> bool {
    manifests.iter().any(|manifest| manifest["kind"] == kind)
}

/// The pod of payops, in either shape.
fn pod(manifests: &[Value]) -> &Value {
    let kind = if has(manifests, "StatefulSet") { "StatefulSet" } else { "Deployment" };
    &of(manifests, kind, "pay-payops")["spec"]["template"]
}

/// The configuration that payops is given.
fn toml(manifests: &[Value]) -> toml::Table {
    of(manifests, "ConfigMap", "pay-payops")["data"]["payops.toml"].as_str().unwrap().parse().unwrap()
}

#[test]
fn every_set_of_values_is_linted_and_is_a_configuration_that_payops_takes() {
    for (name, values) in SETS {
        let (well, told) = helm(&["lint", "--strict", &chart()], values);
        assert!(well, "{name}: {told}");
        let text = of(&rendered(values), "ConfigMap", "pay-payops")["data"]["payops.toml"].clone();
        // Its files are here, too, as its volumes would have them.
        let folder = tempfile::tempdir().unwrap();
        let text = text.as_str().unwrap().replace("/etc/payops", folder.path().to_str().unwrap());
        for line in text.lines().filter(|line| line.contains("file = ")) {
            let path = std::path::Path::new(line.split('"').nth(1).unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "a secret of thirty-two bytes or more").unwrap();
        }
        let file = folder.path().join("payops.toml");
        std::fs::write(&file, text).unwrap();
        let mistakes = payops::config::Config::from_path(Some(&file), []).err();
        assert!(mistakes.is_none(), "{name}: {mistakes:?}");
    }
}

#[test]
fn an_embedded_journal_has_one_owner_and_a_volume_that_stays() {
    let all = set("embedded");
    let owner = &of(&all, "StatefulSet", "pay-payops")["spec"];
    assert_eq!(owner["replicas"], 1);
    assert_eq!(owner["persistentVolumeClaimRetentionPolicy"]["whenDeleted"], "Retain");
    assert_eq!(
        owner["volumeClaimTemplates"][0]["spec"]["accessModes"],
        serde_json::json!(["ReadWriteOncePod"])
    );
    for kind in ["Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Job"] {
        assert!(!has(&all, kind), "{kind}");
    }
    assert_eq!(
        toml(&all)["journal"]["new"].as_bool(),
        Some(false),
        "an empty journal is a lost one, unless said otherwise"
    );
    assert_eq!(toml(&set("embedded, first installation"))["journal"]["new"].as_bool(), Some(true));
}

#[test]
fn replicas_on_a_database_are_spread_and_one_goes_at_a_time() {
    let all = set("postgres");
    let replicas = &of(&all, "Deployment", "pay-payops")["spec"];
    assert_eq!(replicas["replicas"], 3);
    assert_eq!(
        replicas["strategy"]["rollingUpdate"],
        serde_json::json!({"maxSurge": 1, "maxUnavailable": 0})
    );
    assert_eq!(of(&all, "PodDisruptionBudget", "pay-payops")["spec"]["maxUnavailable"], 1);
    let spread = replicas["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap();
    assert_eq!(spread.len(), 2);
    let scaled = set("postgres, scaled");
    assert!(
        of(&scaled, "Deployment", "pay-payops")["spec"]["replicas"].is_null(),
        "the autoscaler has the word"
    );
    let scaler = &of(&scaled, "HorizontalPodAutoscaler", "pay-payops")["spec"];
    assert_eq!((&scaler["minReplicas"], &scaler["maxReplicas"]), (&3.into(), &9.into()));
    assert_eq!(scaler["metrics"][0]["pods"]["metric"]["name"], "payops_operations_under_way");
}

#[test]
fn the_tables_are_changed_by_their_owner_before_an_upgrade() {
    let all = set("postgres, migrated by its owner");
    let job = of(&all, "Job", "pay-payops-migration");
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["args"][0], "migrate");
    assert_eq!(toml(&all)["journal"]["postgres"]["migrate"].as_bool(), Some(false));
    assert_eq!(toml(&set("postgres"))["journal"]["postgres"]["migrate"].as_bool(), Some(true));
}

/// Each pod of each set.
#[test]
fn no_pod_has_a_privilege_or_a_token_and_each_has_bounds() {
    for (name, values) in SETS {
        let all = rendered(values);
        let pods: Vec<&Value> = all
            .iter()
            .filter_map(|manifest| match manifest["kind"].as_str().unwrap() {
                "Pod" => Some(&manifest["spec"]),
                "StatefulSet" | "Deployment" | "Job" => Some(&manifest["spec"]["template"]["spec"]),
                _ => None,
            })
            .collect();
        assert!(!pods.is_empty());
        for pod in pods {
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}: {pod}");
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true);
            assert!(security["runAsUser"].as_u64().unwrap() >= 10_000);
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            let begins = pod["initContainers"].as_array().into_iter().flatten();
            for container in begins.chain(pod["containers"].as_array().unwrap()) {
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}: {container}");
                assert_eq!(security["allowPrivilegeEscalation"], false);
                assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
                assert!(container["resources"]["limits"]["memory"].is_string());
            }
        }
    }
}

#[test]
fn whoever_waits_waits_longer_than_what_it_waits_for() {
    for (name, psp) in
        [("embedded", 30), ("postgres", 30), ("placed and slow", 60), ("istio", 30), ("linkerd", 30)]
    {
        let all = set(name);
        let config = toml(&all);
        let seconds = |text: &str| text.trim_end_matches('s').parse::<i64>().unwrap();
        let of_config = |table: &str, key: &str| seconds(config[table][key].as_str().unwrap());
        let spec = &pod(&all)["spec"];
        let pre_stop = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap();
        let mut waits = vec![of_config("psp", "attempt_timeout"), of_config("server", "wait_max")];
        assert_eq!((waits[0], of_config("server", "wait_default")), (psp, waits[1]));
        match name {
            "istio" => waits.push(seconds(
                of(&all, "VirtualService", "pay-payops")["spec"]["http"][0]["timeout"].as_str().unwrap(),
            )),
            "linkerd" => {
                let profile = of(&all, "ServiceProfile", "pay-payops.payments.svc.cluster.local");
                waits.push(seconds(profile["spec"]["routes"][0]["timeout"].as_str().unwrap()));
            }
            _ => {}
        }
        waits.push(of_config("server", "drain_timeout"));
        waits.push(spec["terminationGracePeriodSeconds"].as_i64().unwrap() - pre_stop);
        assert!(waits.is_sorted_by(|inner, outer| inner < outer), "{name}: {waits:?}");
        if psp == 30 {
            let page = include_str!("../../docs/operations.md");
            assert!(
                waits.iter().all(|seconds| page.contains(&format!("| {seconds} |"))),
                "{name}: {waits:?}"
            );
        }
    }
}

#[test]
fn no_mesh_repeats_a_call() {
    for (name, values) in SETS {
        let (_, text) = helm(&["template", "pay", &chart()], values);
        // An empty block of retries is Istio's default: two.
        for wrong in ["retries: {}", "retries:\n", "retryOn", "isRetryable: true", "perTryTimeout"] {
            assert!(!text.contains(wrong), "{name}: {wrong}");
        }
    }
    let all = set("istio");
    for route in of(&all, "VirtualService", "pay-payops")["spec"]["http"].as_array().unwrap() {
        assert_eq!(route["retries"], serde_json::json!({"attempts": 0}));
    }
    let all = set("linkerd");
    let profile = of(&all, "ServiceProfile", "pay-payops.payments.svc.cluster.local");
    let routes = profile["spec"]["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 3);
    assert!(routes.iter().all(|route| route["isRetryable"] == false));
}

#[test]
fn probes_ask_for_different_things_without_tls() {
    let all = set("certificates");
    let container = &pod(&all)["spec"]["containers"][0];
    let asked = ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| {
        assert_eq!(container[probe]["grpc"]["port"], 50054, "{probe}");
        container[probe]["grpc"]["service"].as_str().unwrap()
    });
    assert_eq!(asked, ["startup", payops::app::SERVICE, "liveness"]);
    assert_eq!(toml(&all)["server"]["health_listen"].as_str(), Some("0.0.0.0:50054"));
}

#[test]
fn pods_are_made_anew_only_for_what_is_not_followed() {
    let sum = |more: &[&str]| {
        let all = rendered(&[&[ACCOUNT], more].concat());
        pod(&all)["metadata"]["annotations"]["checksum/config"].as_str().unwrap().to_owned()
    };
    assert_eq!(sum(&[]), sum(&["log.level=debug"]));
    assert_eq!(sum(&[]), sum(&["callers.toml=other"]));
    assert_ne!(sum(&[]), sum(&["journal.retention=30d"]));
    // A file of a volume is followed only where it is not mounted by itself.
    for (_, values) in SETS {
        let all = rendered(values);
        let mounts = pod(&all)["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().clone();
        assert!(mounts.iter().all(|mount| mount["subPath"].is_null()));
    }
}

#[test]
fn only_what_is_needed_is_reached() {
    let ports = |policy: &Value, way: &str| -> Vec<i64> {
        let rules = policy["spec"][way].as_array().unwrap().iter();
        rules
            .flat_map(|rule| rule["ports"].as_array().unwrap())
            .map(|port| port["port"].as_i64().unwrap())
            .collect()
    };
    let all = set("watched");
    let policy = of(&all, "NetworkPolicy", "pay-payops");
    assert_eq!(policy["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    assert_eq!(ports(policy, "ingress"), [50051, 9464, 50054]);
    assert_eq!(ports(policy, "egress"), [53, 53, 443, 4317]);
    let outside = &policy["spec"]["egress"][1]["to"][0]["ipBlock"];
    assert!(outside["except"].as_array().unwrap().contains(&"169.254.0.0/16".into()), "the cloud's metadata");
    let all = set("postgres with a sandbox");
    assert_eq!(ports(of(&all, "NetworkPolicy", "pay-payops"), "egress"), [53, 53, 50052, 5432]);
    let simulated = of(&all, "NetworkPolicy", "pay-payops-sandbox");
    assert!(simulated["spec"]["egress"].is_null(), "it calls nobody");
    let called = set("placed and slow");
    let from = &of(&called, "NetworkPolicy", "pay-payops")["spec"]["ingress"][0]["from"];
    assert_eq!(*from, serde_json::json!([{"namespaceSelector": {"matchLabels": {"team": "orders"}}}]));
}

#[test]
fn what_would_be_unsafe_or_cannot_work_is_refused_with_its_remedy() {
    for (values, why) in [
        (&[][..], "accounts: is empty"),
        (&["sandbox.enabled=true", ACCOUNT], "accounts: a simulated Dintero"),
        (&["sandbox.enabled=true", "shape=postgres"], "postgres.url: is missing"),
        (&["sandbox.enabled=true", POSTGRES, DATABASE, "replicas=1"], "replicas: one replica is down"),
        (
            &["sandbox.enabled=true", "autoscaling.enabled=true"],
            "autoscaling.enabled: an embedded journal has one owner",
        ),
        (&["sandbox.enabled=true", DATABASE], "postgres.url: shape is embedded"),
        (&["sandbox.enabled=true", "webhook.enabled=true"], "webhook.existingSecret: is missing"),
        (
            &["sandbox.enabled=true", "tls.certManager.enabled=true"],
            "tls.certManager.issuerRef.name: is missing",
        ),
        (&["sandbox.enabled=true", "tls.clientCertificateRequired=true"], "tls.clientCaSecret: is missing"),
        // By the schema.
        (&["shape=many"], "shape"),
        (&["sandbox.enabled=true", "replica=3"], "replica"),
        (&["sandbox.enabled=true", "replicas=three"], "replicas"),
        (&["sandbox.enabled=true", "mesh=consul"], "mesh"),
        (&["sandbox.enabled=true", "timeouts.psp=0"], "psp"),
        (&["sandbox.enabled=true", "journal.new=perhaps"], "new"),
        (&["accounts[0].id=12345678", "accounts[0].existingSecret=dintero"], "id"),
        (&["shape=postgres", "postgres.url=postgres://payops:secret@db/payops"], "url"),
    ] {
        let (well, told) = helm(&["template", "pay", &chart()], values);
        assert!(!well && told.contains(why), "{values:?}: {told}");
    }
}
