//! Fresh names. Random, except in a simulation, where the same seed has to give
//! the same run.

use uuid::Uuid;

/// A random UUID.
pub fn uuid_v4() -> Uuid {
    #[cfg(test)]
    if let Some(bits) = seeded::next() {
        return uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
    }
    Uuid::new_v4()
}

/// A number from 1 on, unlike any other with near certainty.
pub fn step() -> u64 {
    let [a, b, c, d, ..] = *uuid_v4().as_bytes();
    1 + u64::from(u32::from_be_bytes([a, b, c, d]))
}

/// A UUID that sorts by its time.
pub fn uuid_v7() -> Uuid {
    #[cfg(test)]
    if let Some(bits) = seeded::next() {
        // Of the seed alone: the machine's time has no place in a simulation.
        return uuid::Builder::from_u128(bits).with_version(uuid::Version::SortRand).into_uuid();
    }
    Uuid::now_v7()
}

#[cfg(test)]
pub(crate) mod seeded {
    //! Names of a simulation, one after the other.

    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From now on this thread's names follow from `seed`; none ends that.
    pub(crate) fn set(seed: Option<u64>) {
        STATE.set(seed);
    }

    pub(super) fn next() -> Option<u128> {
        let half = || {
            // SplitMix64.
            let state = STATE.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
            STATE.set(Some(state));
            let bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Some(u128::from(bits ^ (bits >> 31)))
        };
        Some(half()? << 64 | half()?)
    }
}
