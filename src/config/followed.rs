//! Files that are followed as they change, by what is in them.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};
use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use crate::config::{FILE_BYTES_MAX, Mistakes};

/// How often the files are looked at.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// What some files say. A new version that is wrong is refused as a whole; the old one stays.
pub struct Followed<T> {
    files: Vec<PathBuf>,
    read: Read<T>,
    current: ArcSwap<T>,
    seen: Mutex<Seen>,
}

/// What became of one look at the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// Nothing new, or something that may not be complete yet.
    Unchanged,
    /// A new version is in force.
    Changed,
    /// A new version is wrong, or a file is gone; the old version stays in force. Each is told once.
    Refused(Mistakes),
}

/// Reads the files; it is handed the version in force.
type Read<T> = Box<dyn Fn(Option<&T>) -> Result<T, Mistakes> + Send + Sync>;

/// The SHA-256 of what is in the files.
type Version = [u8; 32];

struct Seen {
    /// The version that was judged last, good or bad.
    judged: Version,
    /// The version at the last look.
    last: Version,
}

impl<T: Send + Sync + 'static> Followed<T> {
    /// Reads the files with `read`, which is handed the version in force, where there is one. Files that are wrong now
    /// are an error: there is no old version to keep.
    pub fn open(
        files: Vec<PathBuf>,
        read: impl Fn(Option<&T>) -> Result<T, Mistakes> + Send + Sync + 'static,
    ) -> Result<Self, Mistakes> {
        // Before the read: a change during the read is then seen as one.
        let version = version(&files);
        let current = ArcSwap::from_pointee(read(None)?);
        let seen = Mutex::new(Seen { judged: version, last: version });
        Ok(Self { files, read: Box::new(read), current, seen })
    }

    /// The version in force. Holding on to it keeps it; ask again for each call.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// The SHA-256 of what was judged last, good or bad: of the file or, where there are several, of theirs.
    pub fn sha256(&self) -> [u8; 32] {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).judged
    }

    /// Looks at the files once, and judges a change when it has stood still from one look to the next: a file may be
    /// half written, and two that belong together are changed one after the other. Blocks for as long as the file
    /// system takes.
    pub fn refresh(&self) -> Refreshed {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let version = version(&self.files);
        let stands = std::mem::replace(&mut seen.last, version) == version;
        if seen.judged == version || !stands {
            return Refreshed::Unchanged;
        }
        seen.judged = version;
        match (self.read)(Some(&self.current())) {
            Ok(new) => {
                self.current.store(Arc::new(new));
                Refreshed::Changed
            }
            Err(mistakes) => Refreshed::Refused(mistakes),
        }
    }

    /// Looks at the files every [`POLL_INTERVAL`] until `stop`, and tells what became of it; nothing if the look itself
    /// failed.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken, tell: impl Fn(&T, Option<Refreshed>)) {
        while stop.run_until_cancelled(time::sleep(POLL_INTERVAL)).await.is_some() {
            let files = Arc::clone(&self);
            let refreshed = task::spawn_blocking(move || files.refresh()).await;
            tell(&self.current(), refreshed.ok());
        }
    }
}

impl<T> fmt::Debug for Followed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("files", &self.files).finish_non_exhaustive()
    }
}

fn version(files: &[PathBuf]) -> Version {
    if let [file] = files {
        return digest(file);
    }
    files.iter().fold(Sha256::new(), |hash, file| hash.chain_update(digest(file))).finalize().into()
}

/// A file that is gone or too long is a version, too.
fn digest(file: &Path) -> [u8; 32] {
    let mut content = Vec::new();
    let read = File::open(file)
        .and_then(|file| file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut content));
    match read {
        Ok(_) => Sha256::digest(&content).into(),
        Err(_) => [0; 32],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A number in a file.
    fn follow(file: &Path) -> Result<Followed<u32>, Mistakes> {
        let path = file.to_owned();
        Followed::open(vec![file.to_owned()], move |_| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.parse().map_err(|_| {
                let mut mistakes = Mistakes::default();
                mistakes.add("number", format!("{text:?} is none"), "write one");
                mistakes
            })
        })
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        (folder, file)
    }

    /// What the second of two looks says; the first only sees that there is something.
    fn looked(files: &Followed<u32>) -> Refreshed {
        assert_eq!(files.refresh(), Refreshed::Unchanged);
        files.refresh()
    }

    #[test]
    fn a_new_version_replaces_the_old_one_when_it_stands_still() {
        let (_folder, file) = place();
        fs::write(&file, "1").unwrap();
        let files = follow(&file).unwrap();
        assert_eq!(looked(&files), Refreshed::Unchanged);
        fs::write(&file, "2").unwrap();
        assert_eq!(files.refresh(), Refreshed::Unchanged);
        assert_eq!(*files.current(), 1);
        // Still being written.
        fs::write(&file, "23").unwrap();
        assert_eq!(looked(&files), Refreshed::Changed);
        assert_eq!(*files.current(), 23);
        assert_eq!(looked(&files), Refreshed::Unchanged);
    }

    #[test]
    fn the_same_content_written_again_is_no_change() {
        let (_folder, file) = place();
        fs::write(&file, "1").unwrap();
        let files = follow(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(files.refresh(), Refreshed::Unchanged);
        fs::write(&file, "1").unwrap();
        assert_eq!(looked(&files), Refreshed::Unchanged);
    }

    #[test]
    fn a_wrong_version_is_refused_once_and_the_old_one_stays() {
        let (_folder, file) = place();
        fs::write(&file, "1").unwrap();
        let files = follow(&file).unwrap();
        fs::write(&file, "x").unwrap();
        assert!(
            matches!(looked(&files), Refreshed::Refused(mistakes) if mistakes.to_string().contains("\"x\""))
        );
        assert_eq!(looked(&files), Refreshed::Unchanged);
        fs::remove_file(&file).unwrap();
        assert!(matches!(looked(&files), Refreshed::Refused(_)));
        assert_eq!(*files.current(), 1);
        fs::write(&file, "2").unwrap();
        assert_eq!(looked(&files), Refreshed::Changed);
        assert_eq!(*files.current(), 2);
    }

    #[test]
    fn files_that_are_wrong_at_the_start_are_an_error() {
        let (_folder, file) = place();
        assert!(follow(&file).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_followed_until_the_stop() {
        let (_folder, file) = place();
        fs::write(&file, "1").unwrap();
        let files = Arc::new(follow(&file).unwrap());
        let stop = CancellationToken::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let told = Arc::clone(&told);
            move |number: &u32, refreshed: Option<Refreshed>| {
                if refreshed == Some(Refreshed::Changed) {
                    told.lock().unwrap().push(*number);
                }
            }
        };
        let following = tokio::spawn(Arc::clone(&files).follow(stop.clone(), tell));
        for number in [2, 3] {
            fs::write(&file, number.to_string()).unwrap();
            let followed = async {
                while *files.current() != number {
                    time::sleep(POLL_INTERVAL / 4).await;
                }
            };
            time::timeout(POLL_INTERVAL * 4, followed).await.expect("the new number is known");
        }
        stop.cancel();
        following.await.unwrap();
        assert_eq!(*told.lock().unwrap(), [2, 3]);
    }
}
