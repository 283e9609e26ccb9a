//! The callers file, followed as it changes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use crate::callers::Callers;
use crate::config::{
    Mistakes,
    followed::{Followed, Refreshed},
    read_file,
};

/// The callers as the file last told them. A new version that is wrong is refused as a whole; the old one stays.
#[derive(Clone, Debug)]
pub struct CallersFile(Arc<Followed<Callers>>);

impl CallersFile {
    /// Reads the file. A file that is wrong now is an error: there is no old version to keep.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Mistakes> {
        let path = path.into();
        let read = {
            let path = path.clone();
            move |before: Option<&Callers>| match read_file(&path) {
                Ok(text) => {
                    let folder = path.parent().unwrap_or(Path::new(""));
                    Callers::parse_in(folder, &text, before)
                }
                Err(error) => {
                    let mut mistakes = Mistakes::default();
                    let problem = format!("the callers cannot be read ({error})");
                    mistakes.add(path.display().to_string(), problem, "name a readable TOML file");
                    Err(mistakes)
                }
            }
        };
        Ok(Self(Arc::new(Followed::open(vec![path], read)?)))
    }

    /// The callers now. Holding on to them keeps a version; ask again for each call.
    pub fn current(&self) -> Arc<Callers> {
        self.0.current()
    }

    /// The SHA-256 of the file, as it was judged last.
    pub fn sha256(&self) -> [u8; 32] {
        self.0.sha256()
    }

    /// Follows the file until `stop`, and sees to the keys of its issuers. Each version is logged once, and told by its
    /// SHA-256, with what is wrong with it where it is refused.
    pub async fn follow(self, stop: CancellationToken, judged: impl Fn(&[u8], Option<String>)) {
        self.current().issuers().tend();
        tell_idle(&self.current());
        let tell = |callers: &Callers, refreshed| {
            match refreshed {
                Some(Refreshed::Unchanged) => {}
                Some(Refreshed::Changed) => {
                    tracing::info!(callers = callers.names().len(), "the callers file changed");
                    judged(&self.sha256(), None);
                    tell_idle(callers);
                }
                Some(Refreshed::Refused(mistakes)) => {
                    tracing::error!(%mistakes, "the new callers file is refused, the old callers stay");
                    judged(&self.sha256(), Some(mistakes.to_string()));
                }
                None => {
                    tracing::error!("the callers file was not looked at");
                }
            }
            callers.issuers().tend();
        };
        Arc::clone(&self.0).follow(stop, tell).await;
    }
}

/// What nobody allows is denied: a file of a time without rules lets nobody do anything.
fn tell_idle(callers: &Callers) {
    let idle: Vec<&str> = callers.without_rights().take(10).collect();
    if !idle.is_empty() {
        tracing::warn!(callers = ?idle, "no rule of the callers file allows these callers anything");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::callers::new_token;

    #[tokio::test(start_paused = true)]
    async fn a_new_token_replaces_the_old_one_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("callers.toml");
        let rotate = || {
            let (token, sha256) = new_token().unwrap();
            fs::write(&path, format!("[[caller]]\nname = 'orders'\ntoken_sha256 = ['{sha256}']")).unwrap();
            token
        };
        let old = rotate();
        let file = CallersFile::open(&path).unwrap();
        let knows = |token: &str| file.current().authenticate(token) == Some("orders");
        assert!(knows(&old));
        let following = tokio::spawn(file.clone().follow(CancellationToken::new(), |_, _| ()));
        let new = rotate();
        while !knows(&new) {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        assert!(!knows(&old));
        following.abort();
    }

    #[test]
    fn a_file_that_is_wrong_at_the_start_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("callers.toml");
        assert!(CallersFile::open(&path).unwrap_err().to_string().contains("cannot be read"));
        fs::write(&path, "caller = 7").unwrap();
        assert!(CallersFile::open(&path).unwrap_err().to_string().contains("is missing"));
    }
}
