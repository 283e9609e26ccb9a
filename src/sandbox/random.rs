//! Numbers from a seed: the same seed gives the same run.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const ALPHANUMERIC: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A `SplitMix64` generator. Good enough for identifiers in a simulator, and for nothing that guards money.
#[derive(Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator that always yields the same numbers for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A version 4 UUID.
    pub fn uuid(&mut self) -> String {
        let high = u128::from(self.bits());
        let low = u128::from(self.bits());
        uuid::Builder::from_random_bytes(((high << 64) | low).to_be_bytes()).into_uuid().to_string()
    }

    /// `length` letters and digits, as in the part of a transaction id after the dot `[D 1]`.
    pub fn alphanumeric(&mut self, length: usize) -> String {
        let letters = ALPHANUMERIC.iter().cycle();
        (0..length)
            .filter_map(|_| {
                let place = usize::try_from(self.bits() % 62).ok()?;
                letters.clone().nth(place).copied().map(char::from)
            })
            .collect()
    }

    /// 32 bytes in base64url, like the signature of a token.
    pub fn signature(&mut self) -> String {
        let words = [self.bits(), self.bits(), self.bits(), self.bits()];
        URL_SAFE_NO_PAD.encode(words.map(u64::to_be_bytes).concat())
    }
}

/// 32 bits that depend on the arguments alone: whether a fault strikes its n-th candidate does not depend on what
/// else happened meanwhile.
pub fn draw(seed: u64, fault: u64, candidate: u64) -> u32 {
    let bits = mix(mix(seed ^ mix(fault)).wrapping_add(candidate));
    u32::try_from(bits >> 32).unwrap_or(u32::MAX)
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_identifiers() {
        let (mut one, mut two) = (Random::new(7), Random::new(7));
        assert_eq!(one.uuid(), two.uuid());
        assert_eq!(one.alphanumeric(22), two.alphanumeric(22));
        assert_ne!(Random::new(8).uuid(), Random::new(7).uuid());
    }

    #[test]
    fn identifiers_have_their_form() {
        let mut random = Random::new(1);
        assert_eq!(random.uuid().len(), 36);
        assert_eq!(random.alphanumeric(22).len(), 22);
    }
}
