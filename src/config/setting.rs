//! Each key as it was read, for people who ask.

/// One key as it was read: a row of `payops config check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The dotted path, `server.listen`.
    pub key: String,
    /// The value as the file would write it; of a secret only where it comes from.
    pub value: String,
    /// What holds when the key is left out; none where it must be given or may be absent.
    pub default: Option<String>,
    /// Who said so.
    pub origin: Origin,
}

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The configuration file.
    File,
    /// The variable of this name.
    Environment(String),
    /// [`Config::sandbox`](crate::config::Config::sandbox).
    Sandbox,
}
