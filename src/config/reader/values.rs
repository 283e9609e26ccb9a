//! The types of a value: how each is read, bounded and written.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use url::Url;

use crate::config::reader::{Reader, Shape, Wrong, quoted, shown, variable_of};
use crate::config::units;
use crate::config::{LogFormat, Origin};

impl Reader {
    /// A whole number, such as a count.
    pub(in crate::config) fn number<T>(&mut self, key: &str, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: Copy + Display + FromStr + PartialOrd,
    {
        self.value(key, Shape::Number, &default, T::to_string, |text| {
            text.parse().ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
                let remedy = format!("give a whole number from {} to {}", bounds.start(), bounds.end());
                (format!("{} is not in its bounds", shown(text)), remedy)
            })
        })
    }

    /// A duration with its unit, `"30s"`.
    pub(in crate::config) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        bounds: &RangeInclusive<Duration>,
    ) -> Duration {
        self.value(
            key,
            Shape::Text,
            &default,
            |value| quoted(&units::show_duration(*value)),
            |text| bounded_duration(text, bounds),
        )
    }

    /// A list of durations, `["2s", "5s"]`; in a variable `2s,5s`. From one to `length_max` entries.
    pub(in crate::config) fn durations(
        &mut self,
        key: &str,
        default: &[Duration],
        bounds: &RangeInclusive<Duration>,
        length_max: usize,
    ) -> Vec<Duration> {
        let show = |list: &Vec<Duration>| {
            let entries: Vec<_> = list.iter().map(|entry| quoted(&units::show_duration(*entry))).collect();
            format!("[{}]", entries.join(", "))
        };
        self.value(key, Shape::List, &default.to_vec(), show, |text| {
            let entries: Vec<_> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
            if entries.is_empty() || entries.len() > length_max {
                let problem = format!("has {} entries", entries.len());
                return Err((problem, format!("give from 1 to {length_max} durations")));
            }
            entries.into_iter().map(|entry| bounded_duration(entry, bounds)).collect()
        })
    }

    /// A number of bytes with its unit, `"64KiB"`.
    pub(in crate::config) fn bytes<T>(&mut self, key: &str, default: T, bounds: &RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + TryFrom<u64> + TryInto<u64>,
    {
        let show = |value: T| units::show_size(value.try_into().unwrap_or(u64::MAX));
        self.value(
            key,
            Shape::Text,
            &default,
            |value| quoted(&show(*value)),
            |text| {
                let (low, high) = (show(*bounds.start()), show(*bounds.end()));
                let Some(size) = units::size(text) else {
                    return Err((
                        format!("{} is not a byte size", shown(text)),
                        format!("write a whole number and B, KiB or MiB, such as {low:?}"),
                    ));
                };
                T::try_from(size).ok().filter(|size| bounds.contains(size)).ok_or_else(|| {
                    (format!("{} is not in its bounds", shown(text)), format!("give from {low} to {high}"))
                })
            },
        )
    }

    /// `true` or `false`.
    pub(in crate::config) fn switch(&mut self, key: &str, default: bool) -> bool {
        self.value(key, Shape::Switch, &default, bool::to_string, |text| {
            text.parse().map_err(|_| {
                (format!("{} is neither true nor false", shown(text)), "write true or false".into())
            })
        })
    }

    /// An IP address and a port.
    pub(in crate::config) fn address(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        self.value(key, Shape::Text, &default, |value| quoted(&value.to_string()), parse_address)
    }

    /// An IP address and a port that may be left out.
    pub(in crate::config) fn address_if_any(&mut self, key: &str) -> Option<SocketAddr> {
        let Some(found) = self.find(key, Shape::Text) else {
            self.remember(key, "none".to_owned(), None, Origin::Default);
            return None;
        };
        let address = parse_address(&found.text);
        match &address {
            Ok(address) => self.remember(key, quoted(&address.to_string()), None, found.origin),
            Err((problem, remedy)) => self.mistake_in(&found.origin, key, problem, remedy.clone()),
        }
        address.ok()
    }

    /// The URL of a host. The value is not shown when it is wrong: it could hold a password.
    pub(in crate::config) fn url(&mut self, key: &str, default: &Url) -> Url {
        let show = |url: &Url| quoted(url.as_str().trim_end_matches('/'));
        self.value(key, Shape::Text, default, show, |text| {
            Url::parse(text).map_err(|error| {
                (
                    format!("is not a URL ({error})"),
                    "write one such as \"https://checkout.dintero.com\"".into(),
                )
            })
        })
    }

    /// Free text that `check` accepts.
    pub(in crate::config) fn text(
        &mut self,
        key: &str,
        default: &str,
        check: impl Fn(&str) -> Result<(), (&'static str, &'static str)>,
    ) -> String {
        let show = |text: &String| quoted(text);
        self.value(key, Shape::Text, &default.to_owned(), show, |text| match check(text) {
            Ok(()) => Ok(text.to_owned()),
            Err((problem, remedy)) => Err((format!("{} {problem}", shown(text)), remedy.into())),
        })
    }

    /// Text that may be left out, and that `check` accepts. The value is not shown when it is wrong: it could hold a
    /// password.
    pub(in crate::config) fn text_if_any(
        &mut self,
        key: &str,
        check: impl Fn(&str) -> Result<(), (&'static str, &'static str)>,
    ) -> Option<String> {
        let Some(found) = self.find(key, Shape::Text) else {
            self.remember(key, "none".to_owned(), None, Origin::Default);
            return None;
        };
        if let Err((problem, remedy)) = check(&found.text) {
            self.mistake_in(&found.origin, key, problem, remedy);
            // Known as a key all the same.
            self.remember(key, "wrong".to_owned(), None, found.origin);
            return None;
        }
        self.remember(key, quoted(&found.text), None, found.origin);
        Some(found.text)
    }

    /// How log lines are written.
    pub(in crate::config) fn log_format(&mut self, key: &str, default: LogFormat) -> LogFormat {
        let name = |format: &LogFormat| match format {
            LogFormat::Auto => "auto",
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        };
        self.value(
            key,
            Shape::Text,
            &default,
            |format| quoted(name(format)),
            |text| {
                [LogFormat::Auto, LogFormat::Json, LogFormat::Text]
                    .into_iter()
                    .find(|format| name(format) == text)
                    .ok_or_else(|| {
                        (
                            format!("{} is not a log format", shown(text)),
                            "write \"auto\", \"json\" or \"text\"".into(),
                        )
                    })
            },
        )
    }

    /// A path that may be left out. A relative one in the file starts at the file's own folder.
    pub(in crate::config) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let Some(found) = self.find(key, Shape::Text) else {
            self.remember(key, "none".to_owned(), None, Origin::Default);
            return None;
        };
        let path = match found.origin {
            Origin::File => self.folder.join(&found.text),
            _ => PathBuf::from(&found.text),
        };
        if found.text.is_empty() {
            self.mistake_in(&found.origin, key, "is empty", "give a path, or remove it");
        }
        self.remember(key, quoted(&path.display().to_string()), None, found.origin);
        Some(path)
    }

    /// A path that has no default.
    pub(in crate::config) fn path_required(&mut self, key: &str, remedy: &str) -> PathBuf {
        let before = self.mistakes.len();
        let path = self.path(key);
        if path.is_none() && self.mistakes.len() == before {
            self.mistakes.add(key, "is missing", format!("{remedy}, here or in {}", variable_of(key)));
        }
        path.unwrap_or_default()
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        let problem = format!("{} is not an IP address with a port", shown(text));
        (problem, "write one such as \"127.0.0.1:50051\" or \"[::]:50051\"".into())
    })
}

fn bounded_duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let (low, high) = (units::show_duration(*bounds.start()), units::show_duration(*bounds.end()));
    let Some(duration) = units::duration(text) else {
        return Err((
            format!("{} is not a duration", shown(text)),
            "write a whole number and ms, s, m, h or d, such as \"30s\"".into(),
        ));
    };
    if bounds.contains(&duration) {
        Ok(duration)
    } else {
        Err((format!("{} is not in its bounds", shown(text)), format!("give from {low} to {high}")))
    }
}
