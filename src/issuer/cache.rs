//! Tokens that were verified a moment ago, by their SHA-256: a caller sends
//! the same one with every call.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::issuer::Verified;

/// The tokens of one generation; there are two.
const GENERATION_MAX: usize = 1024;

type Hash = [u8; 32];

/// Holds at most two generations. The older one is dropped as a whole when the
/// younger one is full: what is still used has been put into the younger one
/// by then, or is verified once more.
#[derive(Default)]
pub(super) struct Cache(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Hash, Entry>,
    old: HashMap<Hash, Entry>,
}

struct Entry {
    verified: Verified,
    until: Instant,
}

impl Cache {
    pub(super) fn get(&self, hash: &Hash) -> Option<Verified> {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = generations.young.get(hash).or_else(|| generations.old.get(hash))?;
        (Instant::now() < entry.until).then(|| entry.verified.clone())
    }

    /// Remembers a token for so long, at most.
    pub(super) fn put(&self, hash: Hash, verified: Verified, life: Duration) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= GENERATION_MAX {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(hash, Entry { verified, until: Instant::now() + life });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(subject: usize) -> Verified {
        Verified { issuer: "login".into(), subject: subject.to_string().into() }
    }

    fn hash(number: usize) -> Hash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        hash
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_known_for_as_long_as_it_was_said() {
        let cache = Cache::default();
        cache.put(hash(1), verified(1), Duration::from_mins(1));
        cache.put(hash(2), verified(2), Duration::from_secs(5));
        assert_eq!(cache.get(&hash(1)), Some(verified(1)));
        assert_eq!(cache.get(&hash(3)), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((cache.get(&hash(1)), cache.get(&hash(2))), (Some(verified(1)), None));
        tokio::time::advance(Duration::from_secs(55)).await;
        assert_eq!(cache.get(&hash(1)), None);
    }

    #[tokio::test]
    async fn it_has_a_bound_and_forgets_the_oldest() {
        let cache = Cache::default();
        let all = 10 * GENERATION_MAX;
        for number in 0..all {
            cache.put(hash(number), verified(number), Duration::from_mins(1));
        }
        let known = (0..all).filter(|number| cache.get(&hash(*number)).is_some()).count();
        assert!((GENERATION_MAX..=2 * GENERATION_MAX).contains(&known), "{known}");
        assert_eq!(cache.get(&hash(all - 1)), Some(verified(all - 1)));
        assert_eq!(cache.get(&hash(0)), None);
    }
}
