//! How fast a caller may call, of a `[[caller]]` or a `[[group]]`.

use toml::Table;

use crate::config::Mistakes;
use crate::policy::pace::{Pace, Rate};

/// More than one process answers.
const PER_SECOND_MAX: u32 = 100_000;
const BURST_MAX: u32 = 1_000_000;
const IN_FLIGHT_MAX: u32 = 1_000_000;

pub(super) fn pace(entry: &mut Table, at: &str, mistakes: &mut Mistakes) -> Pace {
    let mut number = |key: &str, max: u32| {
        let value = entry.remove(key)?;
        let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (1..=max).contains(number));
        if number.is_none() {
            let remedy = format!("write a whole number from 1 to {max}, or remove it");
            mistakes.add(format!("{at}.{key}"), "is no such number", remedy);
        }
        number
    };
    let per_second = number("requests_per_second", PER_SECOND_MAX);
    let burst = number("burst", BURST_MAX);
    let in_flight_max = number("in_flight_max", IN_FLIGHT_MAX);
    if burst.is_some() && per_second.is_none() {
        let remedy = "give requests_per_second as well, or remove it";
        mistakes.add(format!("{at}.burst"), "is there without requests_per_second", remedy);
    }
    // Without more said, a second's worth may come at once.
    let rate = per_second.map(|per_second| Rate { per_second, burst: burst.unwrap_or(per_second) });
    Pace { rate, in_flight_max }
}
