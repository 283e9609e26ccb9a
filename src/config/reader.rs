//! A reader that is asked for one key at a time and remembers what it saw.
//!
//! A key exists because somebody asks for it, with its default and its bounds; that one line is its whole
//! declaration. What the file or the environment holds and nobody asked for is unknown.

mod unknown;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use crate::config::mistakes::Mistakes;
use crate::config::{Origin, Setting};

/// Every variable of ours begins so.
pub(super) const PREFIX: &str = "PAYOPS_";

/// For the commands that ask a boundary, which may run in the same environment.
const COMMAND_VARIABLES: [&str; 2] = ["PAYOPS_ADDRESS", "PAYOPS_TOKEN"];

/// Collects settings and mistakes; never fails, so that one run finds everything.
pub(super) struct Reader {
    /// What the file holds and nobody asked for yet.
    file: Table,
    /// Relative paths in the file start here.
    folder: PathBuf,
    /// The variables that nobody asked for yet.
    variables: BTreeMap<String, String>,
    /// What [`Origin`] a variable is.
    origin: fn(&str) -> Origin,
    pub(super) settings: Vec<Setting>,
    pub(super) mistakes: Mistakes,
}

/// A value as text, and where it was found.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// Why a text is no value: what is wrong, and the remedy.
type Wrong = (String, String);

/// The four shapes in which TOML gives a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    Number,
    Switch,
    List,
}

impl Reader {
    /// Variables that do not begin with [`PREFIX`] are none of our business.
    pub(super) fn new(
        (folder, file): (&Path, Table),
        variables: impl IntoIterator<Item = (String, String)>,
        origin: fn(&str) -> Origin,
    ) -> Self {
        let ours = |(name, value): &(String, String)| {
            let of_commands = COMMAND_VARIABLES.contains(&name.as_str());
            name.starts_with(PREFIX) && !of_commands && !unknown::is_service_link(name, value)
        };
        Self {
            file,
            folder: folder.to_owned(),
            variables: variables.into_iter().filter(ours).collect(),
            origin,
            settings: Vec::new(),
            mistakes: Mistakes::default(),
        }
    }

    /// The names, in upper case, between `PAYOPS_ACCOUNT_` and one of `endings`, each once.
    pub(super) fn names_in_variables(&self, prefix: &str, endings: &[&str]) -> BTreeSet<String> {
        let name = |variable: &String| {
            let rest = variable.strip_prefix(prefix)?;
            endings.iter().find_map(|ending| rest.strip_suffix(ending)).map(str::to_owned)
        };
        self.variables.keys().filter_map(name).collect()
    }

    /// The value of a variable that belongs to no single key of the file.
    pub(super) fn variable(&mut self, name: &str) -> Option<Found> {
        let text = self.variables.remove(name)?;
        Some(Found { text, origin: (self.origin)(name) })
    }

    /// The tables of `[[name]]`, in order.
    pub(super) fn tables(&mut self, name: &str) -> Vec<Table> {
        let remedy = format!("write each one under its own [[{name}]]");
        match self.file.remove(name) {
            None => Vec::new(),
            Some(Value::Array(list)) => {
                if !list.iter().all(Value::is_table) {
                    self.mistakes.add(name, "holds something else than tables", remedy);
                }
                let table = |entry| if let Value::Table(table) = entry { Some(table) } else { None };
                list.into_iter().filter_map(table).collect()
            }
            Some(_) => {
                self.mistakes.add(name, "is not a list of tables", remedy);
                Vec::new()
            }
        }
    }

    /// Text of one of those tables; `key` is its full name.
    pub(super) fn text_of(&mut self, table: &mut Table, leaf: &str, key: &str) -> Option<String> {
        match as_text(Shape::Text, &table.remove(leaf)?) {
            Ok(text) => Some(text),
            Err((problem, remedy)) => {
                self.mistakes.add(key, problem, remedy);
                None
            }
        }
    }

    /// A path of one of those tables; `key` is its full name.
    pub(super) fn path_of(&mut self, table: &mut Table, leaf: &str, key: &str) -> Option<PathBuf> {
        let text = self.text_of(table, leaf, key)?;
        if text.is_empty() {
            self.mistakes.add(key, "is empty", "give a path, or remove the key");
            return None;
        }
        Some(self.folder.join(text))
    }

    /// Adds a row to what `describe` shows.
    pub(super) fn remember(&mut self, key: &str, value: String, default: Option<String>, origin: Origin) {
        self.settings.push(Setting { key: key.to_owned(), value, default, origin });
    }

    /// The value of a key that has a default, which also stands in for a wrong value until the mistakes are reported.
    fn value<T: Clone>(
        &mut self,
        key: &str,
        shape: Shape,
        default: &T,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> T {
        let (value, origin) = match self.find(key, shape) {
            None => (default.clone(), Origin::Default),
            Some(Found { text, origin }) => match parse(&text) {
                Ok(value) => (value, origin),
                Err((problem, remedy)) => {
                    self.mistake_in(&origin, key, &problem, remedy);
                    (default.clone(), origin)
                }
            },
        };
        self.remember(key, show(&value), Some(show(default)), origin);
        value
    }

    /// Adds a mistake, and the name of the variable where that is where the value came from.
    fn mistake_in(&mut self, origin: &Origin, key: &str, problem: &str, remedy: impl Into<String>) {
        let problem = match origin {
            Origin::Environment(name) => format!("{problem} (in {name})"),
            _ => problem.to_owned(),
        };
        self.mistakes.add(key, problem, remedy);
    }

    /// Takes the key out of the file and out of the environment; the environment wins.
    fn find(&mut self, key: &str, shape: Shape) -> Option<Found> {
        let in_file = take(&mut self.file, key);
        if let Some(found) = self.variable(&variable_of(key)) {
            return Some(found);
        }
        match as_text(shape, &in_file?) {
            Ok(text) => Some(Found { text, origin: Origin::File }),
            Err((problem, remedy)) => {
                self.mistakes.add(key, problem, remedy);
                None
            }
        }
    }
}

/// Takes the value of `section.key`, or of `section.part.key`.
fn take(table: &mut Table, key: &str) -> Option<Value> {
    match key.split_once('.') {
        None => table.remove(key),
        Some((section, rest)) => match table.get_mut(section) {
            Some(Value::Table(section)) => take(section, rest),
            _ => None,
        },
    }
}

/// The variable that overrides a key: `server.listen` is `PAYOPS_SERVER_LISTEN`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_ascii_uppercase())
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A wrong value as a message shows it: escaped, and not longer than a line can bear.
fn shown(text: &str) -> String {
    let clipped: String = text.chars().take(60).collect();
    if clipped.len() < text.len() { format!("{clipped:?}…") } else { format!("{clipped:?}") }
}

fn as_text(shape: Shape, value: &Value) -> Result<String, Wrong> {
    let wrong =
        |expected: &str| (format!("is {} {}", article(value), value.type_str()), format!("write {expected}"));
    match (shape, value) {
        (Shape::Text, Value::String(text)) => Ok(text.clone()),
        (Shape::Text, _) => Err(wrong("it in quotes, with its unit if it has one (\"30s\", \"64KiB\")")),
        (Shape::Number, Value::Integer(number)) => Ok(number.to_string()),
        (Shape::Number, _) => Err(wrong("a whole number without quotes")),
        (Shape::Switch, Value::Boolean(on)) => Ok(on.to_string()),
        (Shape::Switch, _) => Err(wrong("true or false without quotes")),
        (Shape::List, Value::Array(list)) => {
            let entries: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            entries.map(|entries| entries.join(",")).ok_or_else(|| {
                ("holds an entry that is not text".to_owned(), "write each entry in quotes".to_owned())
            })
        }
        (Shape::List, _) => Err(wrong("a list in square brackets")),
    }
}

fn article(value: &Value) -> &'static str {
    if matches!(value, Value::Integer(_) | Value::Array(_)) { "an" } else { "a" }
}
