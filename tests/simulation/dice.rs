//! Chance that follows from a seed.

/// A `SplitMix64` generator.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From `low` up to and with `high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high - low + 1)
    }

    /// True in `permille` of 1000 cases. Draws nothing where the answer is
    /// known, so that a fault that is switched off changes no other draw.
    pub(super) fn happens(&mut self, permille: u32) -> bool {
        permille > 0 && self.bits() % 1000 < u64::from(permille)
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.bits() % of.len() as u64).unwrap()]
    }

    /// Short mostly, long sometimes, very long now and then; milliseconds.
    pub(super) fn delay(&mut self, longest: u64) -> u64 {
        let most = match self.bits() % 8 {
            0..=4 => 2_000,
            5 | 6 => 40_000,
            _ => longest,
        };
        self.between(1, most.min(longest).max(2))
    }
}

pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
