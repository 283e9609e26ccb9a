//! Every secret is changed while callers call, and none of them notices; see docs/operations.md.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use http::Method;
use payops::{callers::token_hash, config::Postgres, sandbox};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tonic::Code;

use crate::database::{Cluster, ROLE, name};
use crate::identity::pki::{Authority, Client, Pair};
use crate::identity::tls::orders;
use crate::place::{Place, TOKEN, callers_file};
use crate::published::Retries;
use crate::sandbox::world::World;
use crate::support::{Caller, capture, eventually};

const REPLICAS: usize = 2;
const CALLERS: usize = 4;
const ROUNDS: usize = 3;
/// What a caller calls on one connection before it makes a new one.
const CALLS_OF_A_CONNECTION: usize = 5;
/// How many calls have to end between a change and the next.
const CALLS_BETWEEN: usize = 4 * CALLERS;

/// Everybody of the test.
struct Scene {
    world: Arc<World>,
    authority: Authority,
    cluster: Cluster,
    database: Postgres,
    places: Vec<Place>,
    /// Who calls from now on, by this token.
    token: Mutex<String>,
    done: AtomicUsize,
    repeated: AtomicUsize,
    stop: AtomicBool,
}

impl Scene {
    async fn start() -> Self {
        let (world, authority) = (Arc::new(World::start().await), Authority::new());
        let cluster = Cluster::start();
        let database = cluster.database();
        let places: Vec<_> = (0..REPLICAS).map(|_| Place::in_front_of(Arc::clone(&world))).collect();
        for place in &places {
            place.on(&database);
            place.set("server.tls", "certificate_file = \"tls.crt\"\nkey_file = \"tls.key\"\n");
        }
        let token = Mutex::new(TOKEN.to_owned());
        let (done, repeated, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let scene = Self { world, authority, cluster, database, places, token, done, repeated, stop };
        scene.show(&scene.authority.server());
        scene
    }

    /// Gives every replica this certificate.
    fn show(&self, pair: &Pair) {
        self.write("tls.crt", &pair.certificate);
        self.write("tls.key", &pair.key);
    }

    fn write(&self, file: &str, text: &str) {
        for place in &self.places {
            // As a mounted secret changes: at once, never half.
            place.write(&format!("{file}.new"), text);
            std::fs::rename(place.path(&format!("{file}.new")), place.path(file)).unwrap();
        }
    }

    /// A caller of each replica, each on a connection of its own.
    fn callers(&self, token: &str) -> Vec<Caller> {
        let client = Client::of(&self.authority);
        let channels = self.places.iter().map(|place| client.channel_to(place.address));
        channels.map(|channel| Caller { token: token.to_owned(), ..orders(channel) }).collect()
    }

    /// What every replica says to a read by this token.
    async fn say(&self, token: &str) -> Vec<Code> {
        let mut codes = Vec::new();
        for caller in self.callers(token) {
            let answer = caller.transaction("T12345678.demoCard00000000000001").await;
            codes.push(answer.map_or_else(|refused| refused.code, |_| Code::Ok));
        }
        codes
    }

    /// Captures by the token of the moment until told to stop; gives the card, and how often.
    async fn call(self: Arc<Self>, nth: usize) -> (String, usize) {
        let (retries, card) = (Retries::published(), self.world.card().await);
        let mut count = 0;
        while !self.stop.load(SeqCst) {
            let token = self.token.lock().unwrap().clone();
            let replicas = self.callers(&token);
            for _ in 0..CALLS_OF_A_CONNECTION {
                let key = format!("rotation-{nth}-{count}");
                let answer = retries.capture(&replicas, nth + count, &key, &capture(&card, 1)).await;
                let (_, repeats) = answer.unwrap_or_else(|status| panic!("{key}: {status:?}"));
                count += 1;
                self.done.fetch_add(1, SeqCst);
                self.repeated.fetch_add(usize::from(repeats > 0), SeqCst);
            }
        }
        (card, count)
    }

    /// Waits until callers have called on with what is new.
    async fn go_on(&self) {
        let before = self.done.load(SeqCst);
        eventually("callers call on", async || self.done.load(SeqCst) > before + CALLS_BETWEEN).await;
    }

    /// The API client at the PSP gets a new secret; then no token is good that the old one gave.
    async fn rotate_psp(&self, round: usize) {
        let (client_id, secret) = (format!("client-{round}"), format!("secret-of-round-{round}"));
        let rotated = json!({"client_id": client_id, "client_secret": secret});
        self.world.admin(Method::PUT, "/clients/T12345678", rotated).await.expect(204);
        self.write("client_id", &client_id);
        self.write("client_secret", &secret);
        self.world.admin(Method::POST, "/tokens/expire", json!({})).await.expect(200);
        self.go_on().await;
        let old = sandbox::Account {
            id: "T12345678".to_owned(),
            client_id: "sandbox-client".to_owned(),
            client_secret: "sandbox-secret".to_owned(),
        };
        assert_eq!(self.world.ask_token(&old, &World::grant(&old.id)).await.status, 401);
    }

    /// Both tokens are good until the caller has the new one; then the old one is not.
    async fn rotate_caller(&self, round: usize) {
        let new = format!("token-of-orders-{round}");
        let old = self.token.lock().unwrap().clone();
        let both = [token_hash(&old), token_hash(&new)];
        self.write("callers.toml", &callers_file(&both));
        eventually("the new token is good", async || self.say(&new).await == [Code::Ok; REPLICAS]).await;
        self.token.lock().unwrap().clone_from(&new);
        self.go_on().await;
        self.write("callers.toml", &callers_file(&both[1..]));
        let refused = [Code::Unauthenticated; REPLICAS];
        eventually("the old token is refused", async || self.say(&old).await == refused).await;
        self.go_on().await;
    }

    /// New handshakes see the new certificate.
    async fn rotate_tls(&self) {
        let new = self.authority.server();
        self.show(&new);
        let der = CertificateDer::from_pem_slice(new.certificate.as_bytes()).unwrap();
        for place in &self.places {
            let client = Client::of(&self.authority);
            eventually("the new certificate is shown", async || {
                let stream = client.shake_at(place.address).await.unwrap();
                stream.get_ref().1.peer_certificates().unwrap()[0] == der
            })
            .await;
        }
        self.go_on().await;
    }

    /// The role gets a new password, and every connection that the old one made is cut.
    async fn rotate_database(&self, round: usize) {
        let password = format!("password-of-round-{round}");
        self.cluster.primary.sql("postgres", &format!("ALTER ROLE {ROLE} PASSWORD '{password}'"));
        self.write("postgres_password", &password);
        let database = name(&self.database);
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}' \
             AND usename = '{ROLE}'"
        );
        assert_ne!(self.cluster.primary.sql("postgres", &cut), "0");
        self.go_on().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_secret_is_changed_under_load_and_no_call_fails() {
    let scene = Arc::new(Scene::start().await);
    let mut lives = Vec::new();
    for (nth, place) in scene.places.iter().enumerate() {
        lives.push(place.begin(&mut place.command()));
        // Itself, before its file is written again.
        eventually("the replica serves", async || scene.say(TOKEN).await[nth] == Code::Ok).await;
        place.no_longer_new();
    }

    let mut callers = JoinSet::new();
    for nth in 0..CALLERS {
        callers.spawn(Arc::clone(&scene).call(nth));
    }
    scene.go_on().await;
    let mut repeats = [0; 4];
    for round in 0..ROUNDS {
        let repeated = || scene.repeated.load(SeqCst);
        let mut before = repeated();
        let mut since = || repeated() - std::mem::replace(&mut before, repeated());
        scene.rotate_psp(round).await;
        repeats[0] += since();
        scene.rotate_caller(round).await;
        repeats[1] += since();
        scene.rotate_tls().await;
        repeats[2] += since();
        scene.rotate_database(round).await;
        repeats[3] += since();
    }
    scene.stop.store(true, SeqCst);
    let mut done = 0;
    // A call that failed ends its caller's task.
    for (card, count) in callers.join_all().await {
        assert_eq!(scene.world.ledger(&card).await.len(), count, "each moved once");
        done += count;
    }
    let [psp, caller, tls, database] = repeats;
    println!(
        "{done} captures while each secret was changed {ROUNDS} times; repeated by their client while it was the \
         PSP's {psp}, the caller's {caller}, TLS {tls}, the database's {database}"
    );
}
