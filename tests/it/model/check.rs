//! What must hold, in every state and over every step. The PSP's own ledger is
//! the truth, whether or not reads show it.

use super::world::{At, KEYS, Point, Replica, Shot, World};

/// The rule that a step to `then` broke.
pub fn check(world: &World, then: &World, voids: [bool; KEYS]) -> Option<&'static str> {
    let effects = then.effects();
    let voided = voids.iter().zip(effects).any(|(void, count)| *void && count > 0);
    for key in 0..KEYS {
        if effects[key] > 1 {
            return Some("S1: two effects of one key");
        }
        if then.told[key].is_some_and(|told| then.rows[key].map(|row| row.at) != Some(told)) {
            return Some("S4: a definite answer was given and is not what is stored");
        }
        let Some(row) = then.rows[key] else { continue };
        let took_effect = effects[key] > 0 || (voids[key] && voided);
        if row.at == At::Succeeded && !took_effect {
            return Some("S2: succeeded without an effect");
        }
        // What came back is no answer: the key is looked up first.
        if matches!(row.at, At::Declined | At::Released) && !row.old {
            if effects[key] > 0 {
                return Some("S3: declined or released, and it took effect");
            }
            if may_take_effect(then, key, row.attempt) {
                return Some("S3: declined or released, and it can take effect yet");
            }
        }
        if row.at == At::Review {
            return Some("L2: a review without a cause");
        }
        let is_lost = world.lost.is_none() && then.lost.is_some();
        if let Some(before) = world.rows[key].filter(|before| !is_lost && before.at != row.at) {
            if before.at == At::Succeeded || (before.at == At::Declined && row.at != At::Review) {
                return Some("S9: what is settled was changed");
            }
            // What T12 allows is sent again all the same.
            let again = matches!(before.at, At::Released | At::Started) || row.at == At::Resent;
            if before.attempt != row.attempt && !again {
                return Some("S12: another attempt was begun after a takeover");
            }
        }
    }
    if then.rows.iter().flatten().filter(|row| row.at.is_open()).count() > 1 {
        return Some("S8: two open operations on one transaction");
    }
    None
}

/// Whether something can still act: on the way, at the PSP, or in the hand of
/// this attempt's sender or an earlier one, with a token that lives.
fn may_take_effect(world: &World, key: usize, attempt: u8) -> bool {
    world.shots[key].iter().any(Shot::is_live)
        || world.replicas.iter().filter_map(|replica| replica.call).any(|call| {
            usize::from(call.key) == key
                && matches!(call.point, Point::Sending { token } if token >= 0)
                && call.view.row.is_some_and(|row| row.attempt <= attempt)
        })
}

/// Whether every operation that was recorded has its end.
pub fn is_ended(world: &World) -> bool {
    world.rows.iter().flatten().all(|row| !row.at.is_open())
}

/// Whether nothing moves any more: no call, no read, no request.
pub fn is_quiet(world: &World) -> bool {
    let idle = |replica: &Replica| replica.call.is_none() && replica.reader.is_none();
    is_ended(world)
        && world.replicas.iter().all(idle)
        && world.shots.iter().flatten().all(|shot| !shot.is_live())
}
