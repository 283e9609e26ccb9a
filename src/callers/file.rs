//! The callers file, followed as it changes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use crate::callers::Callers;
use crate::config::{Mistakes, read_file};

/// How often the file is looked at.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The callers as the file last told them. A new version that is wrong is refused as a whole; the old one stays.
#[derive(Debug)]
pub struct CallersFile {
    path: PathBuf,
    current: ArcSwap<Callers>,
    /// The version that was last looked at, good or bad.
    seen: Mutex<Version>,
}

/// What became of one look at the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// It is the version that was looked at before.
    Unchanged,
    /// A new version is in force.
    Changed,
    /// A new version is wrong, or the file is gone; the old version stays in force.
    Refused(Mistakes),
}

/// When the file was written and how long it is; none if that cannot be told.
type Version = Option<(SystemTime, u64)>;

impl CallersFile {
    /// Reads the file. A file that is wrong now is an error: there is no old version to keep.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Mistakes> {
        let path = path.into();
        // Before the read: a change during the read is then seen as one.
        let version = version(&path);
        let callers = read(&path)?;
        Ok(Self { path, current: ArcSwap::from_pointee(callers), seen: Mutex::new(version) })
    }

    /// The callers now. Holding on to them keeps a version; ask again for each call.
    pub fn current(&self) -> Arc<Callers> {
        self.current.load_full()
    }

    /// Looks at the file once. Blocks for as long as the file system takes.
    pub fn refresh(&self) -> Refreshed {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let version = version(&self.path);
        if *seen == version {
            return Refreshed::Unchanged;
        }
        *seen = version;
        match read(&self.path) {
            Ok(callers) => {
                self.current.store(Arc::new(callers));
                Refreshed::Changed
            }
            Err(mistakes) => Refreshed::Refused(mistakes),
        }
    }

    /// Looks at the file every [`POLL_INTERVAL`] until `stop`. Each version is logged once.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(time::sleep(POLL_INTERVAL)).await.is_some() {
            let file = Arc::clone(&self);
            match task::spawn_blocking(move || file.refresh()).await {
                Ok(Refreshed::Unchanged) => (),
                Ok(Refreshed::Changed) => {
                    tracing::info!(callers = self.current().names().len(), "the callers file changed");
                }
                Ok(Refreshed::Refused(mistakes)) => {
                    tracing::error!(%mistakes, "the new callers file is refused, the old callers stay");
                }
                Err(error) => tracing::error!(%error, "the callers file was not looked at"),
            }
        }
    }
}

fn version(path: &Path) -> Version {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path) -> Result<Callers, Mistakes> {
    match read_file(path) {
        Ok(text) => Callers::parse(&text),
        Err(error) => {
            let mut mistakes = Mistakes::default();
            let problem = format!("the callers cannot be read ({error})");
            mistakes.add(path.display().to_string(), problem, "name a readable TOML file");
            Err(mistakes)
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::callers::new_token;

    /// A callers file of one caller, rewritten at will.
    struct Written {
        folder: TempDir,
        writes: u64,
    }

    impl Written {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), writes: 0 }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("callers.toml")
        }

        /// Each write is a second later than the one before, however coarse the file system's clock is.
        fn write(&mut self, text: &str) {
            fs::write(self.path(), text).unwrap();
            self.writes += 1;
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + self.writes);
            fs::File::options().write(true).open(self.path()).unwrap().set_modified(at).unwrap();
        }

        /// Gives the only caller a new token, and says which.
        fn rotate(&mut self) -> String {
            let (token, sha256) = new_token().unwrap();
            self.write(&format!("[[caller]]\nname = 'orders'\ntoken_sha256 = ['{sha256}']"));
            token
        }
    }

    fn knows(file: &CallersFile, token: &str) -> bool {
        file.current().authenticate(token) == Some("orders")
    }

    #[test]
    fn a_new_version_replaces_the_old_one() {
        let mut written = Written::new();
        let old = written.rotate();
        let file = CallersFile::open(written.path()).unwrap();
        assert_eq!(file.refresh(), Refreshed::Unchanged);
        assert!(knows(&file, &old));
        let new = written.rotate();
        assert_eq!(file.refresh(), Refreshed::Changed);
        assert!(knows(&file, &new) && !knows(&file, &old));
        assert_eq!(file.refresh(), Refreshed::Unchanged);
    }

    #[test]
    fn a_wrong_version_is_refused_once_and_the_old_one_stays() {
        let mut written = Written::new();
        let old = written.rotate();
        let file = CallersFile::open(written.path()).unwrap();
        written.write("[[caller]]\nname = 'orders'");
        assert!(matches!(file.refresh(), Refreshed::Refused(_)));
        assert_eq!(file.refresh(), Refreshed::Unchanged);
        fs::remove_file(written.path()).unwrap();
        assert!(matches!(file.refresh(), Refreshed::Refused(_)));
        assert_eq!(file.refresh(), Refreshed::Unchanged);
        assert!(knows(&file, &old));
        let new = written.rotate();
        assert_eq!(file.refresh(), Refreshed::Changed);
        assert!(knows(&file, &new));
    }

    #[test]
    fn a_file_that_is_wrong_at_the_start_is_an_error() {
        let mut written = Written::new();
        assert!(CallersFile::open(written.path()).unwrap_err().to_string().contains("cannot be read"));
        written.write("caller = 7");
        assert!(CallersFile::open(written.path()).unwrap_err().to_string().contains("is missing"));
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_followed_until_the_stop() {
        let mut written = Written::new();
        written.rotate();
        let file = Arc::new(CallersFile::open(written.path()).unwrap());
        let stop = CancellationToken::new();
        let following = tokio::spawn(Arc::clone(&file).follow(stop.clone()));
        for _ in 0..2 {
            let token = written.rotate();
            let followed = async {
                while !knows(&file, &token) {
                    time::sleep(POLL_INTERVAL / 4).await;
                }
            };
            time::timeout(POLL_INTERVAL * 3, followed).await.expect("the new token is known");
        }
        stop.cancel();
        following.await.unwrap();
    }
}
