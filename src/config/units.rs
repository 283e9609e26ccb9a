//! Durations ("30s") and byte sizes ("64KiB"), read and written without floats.

use std::time::Duration;

/// One unit: its name, how many of the smallest it is, and how many of it there are at least when written.
struct Unit(&'static str, u64, u64);

/// The largest first, in milliseconds. A minute is written "60s", two are "2m", as people do;
/// so is a day "24h".
const DURATION: [Unit; 5] = [
    Unit("d", 86_400_000, 2),
    Unit("h", 3_600_000, 2),
    Unit("m", 60_000, 2),
    Unit("s", 1_000, 1),
    Unit("ms", 1, 0),
];

/// The largest first, in bytes.
const SIZE: [Unit; 3] = [Unit("MiB", 1024 * 1024, 1), Unit("KiB", 1024, 1), Unit("B", 1, 0)];

/// Reads a whole number with one unit: `2500ms`, `30s`, `15m`, `4h`, `90d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    Some(Duration::from_millis(read(text, &DURATION)?))
}

/// Writes a duration so that [`duration`] reads it back; what is finer than a millisecond is cut off.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION)
}

/// Reads a whole number with one unit: `512B`, `64KiB`, `1MiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    read(text, &SIZE)
}

/// Writes a byte size so that [`size`] reads it back.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE)
}

fn read(text: &str, units: &[Unit]) -> Option<u64> {
    let (number, name) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let Unit(_, factor, _) = units.iter().find(|unit| unit.0 == name)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(quantity: u64, units: &[Unit]) -> String {
    let fits = |unit: &&Unit| quantity.is_multiple_of(unit.1) && quantity / unit.1 >= unit.2;
    units.iter().find(fits).map(|unit| format!("{}{}", quantity / unit.1, unit.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_one_unit() {
        for (text, milliseconds) in [
            ("2500ms", 2_500),
            ("30s", 30_000),
            ("15m", 900_000),
            ("4h", 14_400_000),
            ("90d", 7_776_000_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "30", "s", "1.5s", "-1s", "+1s", "1 s", " 1s", "1m30s", "30S", "1w", "99999999999999999999h"]
        {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_whole_numbers_with_one_binary_unit() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("1MiB", 1_048_576)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "64", "64KB", "64kib", "1.5MiB", "-1B", "99999999999999999999MiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_people_write_them() {
        for text in ["0ms", "1ms", "1s", "2500ms", "60s", "90s", "2m", "15m", "60m", "24h", "7d"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(quantity in 0..u64::MAX / 2) {
            prop_assert_eq!(duration(&show_duration(Duration::from_millis(quantity))), Some(Duration::from_millis(quantity)));
            prop_assert_eq!(size(&show_size(quantity)), Some(quantity));
        }
    }
}
