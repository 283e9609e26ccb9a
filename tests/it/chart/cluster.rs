//! Every manifest of every set is shown to a real kube-apiserver, with the definitions of what others add to a cluster.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde::Deserialize as _;
use serde_json::Value;

use crate::chart::{SETS, chart, helm, rendered};
use crate::support::{eventually, free_address};

/// What the notes say where a mesh is injected that the chart was not told of.
const WARNING: &str = "it may repeat captures by itself";
const TOKEN: &str = "token-of-the-tests";

/// etcd and kube-apiserver, without a node.
struct Cluster {
    child: tokio::process::Child,
    folder: tempfile::TempDir,
    base: String,
    client: reqwest::Client,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(path("accounts.key"), key.serialize_pem()).unwrap();
        fs::write(path("accounts.pub"), key.public_key_pem()).unwrap();
        fs::write(path("tokens"), format!("{TOKEN},tests,1,system:masters\n")).unwrap();
        let (etcd, peer, server) = (free_address(), free_address(), free_address());
        let child = tokio::process::Command::new("payops-test-cluster")
            .env("ETCD_FOLDER", path("etcd"))
            .env("ETCD_ADDRESS", etcd.to_string())
            .env("ETCD_PEER_ADDRESS", peer.to_string())
            .arg(format!("--etcd-servers=http://{etcd}"))
            .arg(format!("--cert-dir={}", path("certificates")))
            .args(["--bind-address=127.0.0.1", &format!("--secure-port={}", server.port())])
            .arg(format!("--token-auth-file={}", path("tokens")))
            .args(["--authorization-mode=AlwaysAllow", "--service-cluster-ip-range=10.0.0.0/24"])
            .arg("--service-account-issuer=https://tests.example")
            .arg(format!("--service-account-key-file={}", path("accounts.pub")))
            .arg(format!("--service-account-signing-key-file={}", path("accounts.key")))
            .arg("--disable-admission-plugins=ServiceAccount")
            .arg("--enable-admission-plugins=PodSecurity")
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("the cluster is there: tests/run builds it");
        // It makes its certificate itself, at its start.
        let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
        let mut cluster = Self { child, folder, base: format!("https://{server}"), client };
        let begun = std::time::Instant::now();
        while !cluster.get("/readyz").await.is_ok_and(|(status, _)| status == 200) {
            let log = || fs::read_to_string(cluster.folder.path().join("log")).unwrap_or_default();
            assert!(cluster.child.try_wait().unwrap().is_none(), "it ended: {}", log());
            assert!(begun.elapsed() < Duration::from_mins(2), "it does not begin: {}", log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        cluster
    }

    async fn get(&self, path: &str) -> reqwest::Result<(u16, String)> {
        let asked = self.client.get(format!("{}{path}", self.base)).bearer_auth(TOKEN).send().await?;
        Ok((asked.status().as_u16(), asked.text().await?))
    }

    async fn post(&self, path: &str, manifest: &Value) -> (u16, String) {
        let asked = self.client.post(format!("{}{path}", self.base)).bearer_auth(TOKEN);
        let asked = asked.header("content-type", "application/json").body(manifest.to_string());
        let answer = asked.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Where manifests of that kind are created, by what the server says of itself.
    async fn place(&self, manifest: &Value) -> Option<String> {
        let version = manifest["apiVersion"].as_str().unwrap();
        let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let (status, listed) = self.get(&base).await.unwrap();
        let listed: Value = (status == 200).then(|| serde_json::from_str(&listed).unwrap())?;
        let resource = listed["resources"].as_array().unwrap().iter().find(|resource| {
            resource["kind"] == manifest["kind"] && !resource["name"].as_str().unwrap().contains('/')
        })?;
        let namespace = if resource["namespaced"] == true { "/namespaces/payments" } else { "" };
        Some(format!("{base}{namespace}/{}", resource["name"].as_str().unwrap()))
    }
}

/// What others define: their definitions, as their modules publish them.
fn definitions() -> Vec<Value> {
    // Beside the tools.
    let found =
        Command::new("sh").args(["-c", "dirname $(command -v payops-test-cluster)"]).output().unwrap();
    let folder = format!("{}/../definitions", String::from_utf8(found.stdout).unwrap().trim());
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|_| panic!("{folder}: tests/run fetches them")) {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for document in serde_norway::Deserializer::from_str(&text) {
            let definition = Value::deserialize(document).unwrap();
            if definition["kind"] == "CustomResourceDefinition" {
                all.push(definition);
            }
        }
    }
    all
}

/// The pod that a workload would make: only of pods does the server say whether they are restricted.
fn its_pod(manifest: &Value) -> Option<Value> {
    let template =
        manifest["spec"]["template"].as_object().filter(|_| manifest["kind"] != "ExternalSecret")?;
    let metadata = serde_json::json!({"name": "pod", "labels": template["metadata"]["labels"]});
    let mut spec = template["spec"].clone();
    if let Some(claims) = manifest["spec"]["volumeClaimTemplates"].as_array() {
        // Its owner gives each pod the volume.
        for claim in claims {
            let name = &claim["metadata"]["name"];
            let volume = serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
            spec["volumes"].as_array_mut().unwrap().push(volume);
        }
    }
    Some(serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_api_server_takes_every_manifest_of_every_set() {
    let cluster = Cluster::start().await;
    // As strict as there is: a pod that is not restricted is refused.
    let labels = serde_json::json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "payments", "labels": labels}});
    let (status, told) = cluster.post("/api/v1/namespaces", &namespace).await;
    assert_eq!(status, 201, "{told}");
    for definition in definitions() {
        let (status, told) =
            cluster.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
        assert!(status == 201, "{}: {told}", definition["metadata"]["name"]);
    }
    let mut taken = 0;
    for (name, values) in SETS {
        let all = rendered(values);
        for manifest in all.iter().cloned().chain(all.iter().filter_map(its_pod)) {
            // Linkerd publishes its definitions nowhere where the tests could fetch them.
            if manifest["kind"] == "ServiceProfile" {
                continue;
            }
            let what = format!("{name}: {} {}", manifest["kind"], manifest["metadata"]["name"]);
            let mut place = None;
            eventually(&format!("{what}: the server knows the kind"), async || {
                place = cluster.place(&manifest).await;
                place.is_some()
            })
            .await;
            let strictly = format!("{}?dryRun=All&fieldValidation=Strict", place.unwrap());
            let (status, told) = cluster.post(&strictly, &manifest).await;
            assert_eq!(status, 201, "{what}: {told}");
            taken += 1;
        }
    }
    // Nothing is installed: it is only said what would be.
    let notes = |set: &[&str]| {
        let (token, server) = (format!("--kube-token={TOKEN}"), format!("--kube-apiserver={}", cluster.base));
        let trial = ["install", "pay", &chart(), "--namespace", "payments", "--dry-run=server"];
        let (well, told) =
            helm(&[&trial[..], &[&token, &server, "--kube-insecure-skip-tls-verify"]].concat(), set);
        assert!(well, "{told}");
        told
    };
    let told = notes(&["sandbox.enabled=true", "journal.new=true"]);
    for word in
        ["grpcurl -plaintext", "Take it away with the next upgrade", "Dintero is simulated", "tls is not set"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    // A mesh that nobody told the chart of would repeat calls.
    assert!(!told.contains(WARNING), "{told}");
    let injected = serde_json::json!({"metadata": {"labels": {"istio-injection": "enabled"}}});
    let patched =
        cluster.client.patch(format!("{}/api/v1/namespaces/payments", cluster.base)).bearer_auth(TOKEN);
    let patched = patched.header("content-type", "application/merge-patch+json").body(injected.to_string());
    assert_eq!(patched.send().await.unwrap().status(), 200);
    assert!(notes(&["sandbox.enabled=true"]).contains(WARNING));
    assert!(!notes(&["sandbox.enabled=true", "mesh=istio"]).contains(WARNING));
    assert!(taken >= 150, "{taken} manifests");
    println!("{taken} manifests of {} sets are taken", SETS.len());
}
