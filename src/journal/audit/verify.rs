//! Looks whether records and journal are what was written: each record against
//! its chain, each chain against the heads that are known of it, and each entry
//! against the last record that tells of it. Who reads the journal hands everything
//! in, the records in the order of chain, batch and place.
//!
//! # Correctness
//!
//! Without the key no record can be changed, put in or moved so that it fits.
//! One that is taken out leaves the next batch without what it holds on to. At
//! the very end of a chain nothing follows: there the heads show it that were
//! seen elsewhere, in the log, in the journal itself, in the next chain.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::PathBuf,
};

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::journal::audit::{
    Head, Key, Record, archive,
    chain::{Link, same},
    hex,
};
use crate::payment::id::OperationId;

/// Findings that are told one by one; of the rest only the number.
const FINDINGS_MAX: usize = 1000;
/// So many batches in a row that do not fit: what is before them is not there.
const BATCHES_WITHOUT_MAX: u32 = 3;

/// A record as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Whose.
    pub chain: Uuid,
    /// From 1.
    pub batch: i64,
    /// From 1.
    pub place: i64,
    /// The record.
    pub body: &'a str,
    /// What holds it.
    pub link: &'a [u8],
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is not as it was written, one sentence each; not all of them, where
    /// there are very many.
    pub findings: Vec<String>,
    /// How many there are.
    pub found: u64,
    /// How many records there are.
    pub records: u64,
    /// In how many chains.
    pub chains: u64,
    /// How many entries the journal has.
    pub operations: u64,
}

/// See the module.
pub struct Verifier {
    keys: Vec<Key>,
    walk: Option<Walk>,
    /// The last two heads of each chain that is through, each as it may be.
    ends: HashMap<Uuid, Vec<Head>>,
    /// Heads that somebody saw: who, and whether the chain ends there.
    seen: BTreeMap<(Uuid, u64), Vec<Seen>>,
    latest: HashMap<OperationId, Latest>,
    archives: Vec<PathBuf>,
    forgotten_before: Option<Timestamp>,
    report: Report,
}

#[derive(Clone, Debug)]
struct Seen {
    head: Head,
    by: String,
    is_last: bool,
}

/// The last record that tells of an operation.
struct Latest {
    revision: u64,
    sha256: String,
    open: bool,
    at: Timestamp,
    is_there: bool,
    place: Place,
}

#[derive(Clone, Copy)]
struct Place {
    chain: Uuid,
    batch: u64,
    nth: u32,
}

/// One chain, up to some batch.
struct Walk {
    key: Option<Key>,
    /// What the batch may hold on to: more than one where a record before it is
    /// not what was written.
    before: Vec<Head>,
    /// The one that it does.
    chosen: Option<Head>,
    batch: u64,
    /// Of the batch: as stored, and as they would have to be.
    links: Vec<(Link, Link)>,
    fit: usize,
    /// Batches without a record that fits, one after the other.
    without: u32,
    /// Nothing more can be held against what is before.
    is_lost: bool,
    ends: Vec<Head>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.chain, self.batch, self.nth)
    }
}

impl Verifier {
    /// With every key that chains may have.
    pub fn new(keys: Vec<Key>) -> Self {
        Self {
            keys,
            walk: None,
            ends: HashMap::new(),
            seen: BTreeMap::new(),
            latest: HashMap::new(),
            archives: Vec::new(),
            forgotten_before: None,
            report: Report::default(),
        }
    }

    /// A head that was seen elsewhere. Before the records.
    pub fn expect(&mut self, head: Head, by: &str) {
        self.saw(head, by, false);
    }

    /// The same, of a chain that did not go on. Before the records.
    pub fn expect_last(&mut self, head: Head, by: &str) {
        self.saw(head, by, true);
    }

    /// A file with chains that are no longer in the journal. Before the records.
    pub fn archive(&mut self, file: PathBuf) {
        self.archives.push(file);
    }

    fn saw(&mut self, head: Head, by: &str, is_last: bool) {
        self.seen.entry((head.chain, head.batch)).or_default().push(Seen {
            head,
            by: by.to_owned(),
            is_last,
        });
    }

    /// Something else is wrong.
    pub fn find(&mut self, finding: String) {
        self.report.found += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        }
    }

    /// The next record.
    pub fn record(&mut self, stored: &Stored<'_>) {
        self.report.records += 1;
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        let nth = u32::try_from(stored.place).unwrap_or_default();
        let place = Place { chain: stored.chain, batch: number(stored.batch), nth };
        if self.walk.as_ref().is_none_or(|walk| walk.chain() != stored.chain) {
            self.end_chain();
            self.report.chains += 1;
            self.walk = Some(Walk::new(stored.chain));
        }
        let Some(mut walk) = self.walk.take() else { return };
        if place.batch != walk.batch {
            self.end_batch(&mut walk);
            if place.batch != walk.batch && !walk.is_lost {
                self.find(format!(
                    "chain {}: batch {} is followed by batch {}: records are missing between them, and what comes \
                     after cannot be held against them",
                    place.chain,
                    walk.batch.saturating_sub(1),
                    place.batch
                ));
                walk.is_lost = true;
            }
            walk.batch = place.batch;
        }
        if !walk.is_lost && !walk.takes(&self.keys, place, stored) {
            self.find(format!(
                "record {place} is not what was written, or not where it was written, or what is before it is missing"
            ));
        }
        self.walk = Some(walk);
        match serde_json::from_str(stored.body) {
            Ok(record) => self.tell(record, place),
            Err(error) => self.find(format!("record {place} cannot be read: {error}")),
        }
    }

    /// Those were the records of the journal. Chains that are not among them are
    /// read from archives.
    pub fn end_records(&mut self) {
        self.end_chain();
        for file in std::mem::take(&mut self.archives) {
            let known: HashSet<Uuid> = self.ends.keys().copied().collect();
            let read = archive::each(&file, |stored| {
                if !known.contains(&stored.chain) {
                    self.record(stored);
                }
            });
            if let Err(why) = read {
                self.find(format!("{}: {why}", file.display()));
            }
            self.end_chain();
        }
    }

    fn tell(&mut self, record: Record, place: Place) {
        match record {
            Record::Operation(operation) => {
                let known = self.latest.get(&operation.operation_id);
                if known.is_none_or(|known| known.revision < operation.revision) {
                    let latest = Latest {
                        revision: operation.revision,
                        sha256: operation.sha256,
                        open: operation.open,
                        at: operation.at,
                        is_there: false,
                        place,
                    };
                    self.latest.insert(operation.operation_id, latest);
                }
            }
            Record::Forgotten { before, .. } => {
                self.forgotten_before = self.forgotten_before.max(Some(before));
            }
            Record::Chain { after: Some(after), .. } => match after.parse() {
                Ok(head) => self.saw(head, &format!("record {place}"), true),
                Err(why) => self.find(format!("record {place}: {why}")),
            },
            Record::Chain { after: None, .. } | Record::Refusal(_) | Record::Configuration { .. } => {}
        }
    }

    /// An entry of the journal, by the checksum of what is stored. After the
    /// records.
    pub fn operation(&mut self, id: OperationId, revision: u64, sha256: &[u8]) {
        self.report.operations += 1;
        let Some(latest) = self.latest.get_mut(&id) else {
            self.find(format!("operation {id} is in the journal, and no record tells of it"));
            return;
        };
        latest.is_there = true;
        if latest.revision != revision || latest.sha256 != hex(sha256) {
            let place = latest.place;
            self.find(format!(
                "operation {id} is not in the journal as its last record tells, which is {place}"
            ));
        }
    }

    /// An entry of the journal whose row is not what was written.
    pub fn damaged(&mut self, id: &str, why: &str) {
        self.report.operations += 1;
        if let Some(latest) = id.parse().ok().and_then(|id| self.latest.get_mut(&id)) {
            latest.is_there = true;
        }
        self.find(format!("operation {id}: its row in the journal is not what was written: {why}"));
    }

    /// That was all.
    pub fn end(mut self) -> Report {
        self.end_records();
        for ((chain, batch), seen) in std::mem::take(&mut self.seen) {
            // Heads of chains that are through were looked at, but for those that were told of later.
            for Seen { head, by, is_last } in seen {
                let ends = self.ends.get(&chain).map(Vec::as_slice).unwrap_or_default();
                let last = ends.iter().map(|end| end.batch).max().unwrap_or_default();
                if last < batch {
                    self.find(format!(
                        "chain {chain} ends with batch {last}, and {by} knows batch {batch}: records are missing at \
                         its end"
                    ));
                } else if is_last && last > batch + 1 {
                    self.find(format!(
                        "chain {chain} goes on to batch {last}, and {by} knows that it ended with batch {batch}"
                    ));
                } else if is_last && !ends.iter().any(|end| end.is(&head)) {
                    self.find(format!(
                        "chain {chain}, batch {batch}: {by} knows it otherwise: records of it are missing or were \
                         changed"
                    ));
                }
            }
        }
        let forgotten_before = self.forgotten_before;
        let missing: Vec<String> = self
            .latest
            .iter()
            .filter(|(_, latest)| {
                let forgotten = !latest.open && forgotten_before.is_some_and(|before| latest.at < before);
                !latest.is_there && !forgotten
            })
            .map(|(id, latest)| {
                format!("operation {id} is not in the journal, and record {} tells of it", latest.place)
            })
            .collect();
        for finding in missing {
            self.find(finding);
        }
        self.report
    }

    fn end_chain(&mut self) {
        if let Some(mut walk) = self.walk.take() {
            self.end_batch(&mut walk);
            self.ends.insert(walk.chain(), walk.ends);
        }
    }

    /// Finds the head of the batch that is through, and what is known of it.
    fn end_batch(&mut self, walk: &mut Walk) {
        if walk.links.is_empty() {
            return;
        }
        if !walk.is_lost {
            walk.without = if walk.fit > 0 { 0 } else { walk.without + 1 };
            if walk.without >= BATCHES_WITHOUT_MAX {
                walk.is_lost = true;
                self.find(format!(
                    "chain {}: nothing from batch {} on can be held against what is before it",
                    walk.chain(),
                    walk.batch
                ));
            }
        }
        let heads = walk.heads(&self.keys);
        let seen = self.seen.get(&(walk.chain(), walk.batch)).cloned().unwrap_or_default();
        for Seen { head, by, is_last } in seen {
            if !is_last && !heads.iter().any(|known| known.is(&head)) {
                self.find(format!(
                    "chain {}, batch {}: its head is not the one that {by} saw: records are missing or were changed",
                    head.chain, head.batch
                ));
            }
        }
        walk.go_on(heads);
    }
}

impl Walk {
    fn new(chain: Uuid) -> Self {
        Self {
            key: None,
            before: vec![Head::nothing(chain)],
            chosen: None,
            batch: 1,
            links: Vec::new(),
            fit: 0,
            without: 0,
            is_lost: false,
            ends: Vec::new(),
        }
    }

    fn chain(&self) -> Uuid {
        self.before.first().map(|head| head.chain).unwrap_or_default()
    }

    /// Whether the record fits to what is before it.
    fn takes(&mut self, keys: &[Key], at: Place, stored: &Stored<'_>) -> bool {
        let mut fits = None;
        let keys = self.key.as_ref().map_or(keys, std::slice::from_ref);
        let before = self.chosen.as_ref().map_or(self.before.as_slice(), std::slice::from_ref);
        let mut computed = [0; 32];
        for (key, head) in keys.iter().flat_map(|key| before.iter().map(move |head| (key, head))) {
            let link = key.link(head, at.nth, stored.body);
            computed = link;
            if same(&link, stored.link) {
                fits = Some((key.clone(), *head));
                break;
            }
        }
        let link = stored.link.try_into().unwrap_or_default();
        self.links.push((link, computed));
        let Some((key, head)) = fits else { return false };
        self.key = Some(key);
        self.chosen = Some(head);
        self.fit += 1;
        true
    }

    /// What the head of the batch may be: from its links as they are stored, and
    /// as they would have to be.
    fn heads(&self, keys: &[Key]) -> Vec<Head> {
        let Some(key) = self.key.as_ref().or(keys.first()) else { return Vec::new() };
        let Some(before) = self.chosen.or(self.before.first().copied()) else { return Vec::new() };
        let stored = key.after(&before, self.links.iter().map(|(stored, _)| stored));
        let computed = key.after(&before, self.links.iter().map(|(_, computed)| computed));
        if stored == computed { vec![stored] } else { vec![stored, computed] }
    }

    fn go_on(&mut self, heads: Vec<Head>) {
        let oldest = self.batch.saturating_sub(1);
        self.ends.retain(|end| end.batch >= oldest);
        self.ends.extend(&heads);
        self.before = heads;
        self.chosen = None;
        self.links.clear();
        self.fit = 0;
        self.batch += 1;
    }
}
