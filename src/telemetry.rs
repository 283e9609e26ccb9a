//! Logs: JSON lines for machines, text on a terminal. What is logged can be
//! changed while payops runs, by a file.

use std::{io::IsTerminal as _, sync::Arc};

use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{
    Log, LogFormat, Mistakes, checked_level,
    followed::{Followed, Refreshed},
    read_file,
};

/// Changes what is logged.
pub struct Level {
    set: Box<dyn Fn(EnvFilter) + Send + Sync>,
    file: Option<Arc<Followed<String>>>,
}

/// Starts logging to stderr. A second start changes nothing. A level file that
/// is wrong now is an error.
pub fn start(log: &Log) -> Result<Level, Mistakes> {
    let file = log.level_file.as_ref().map(|path| {
        let read = {
            let path = path.clone();
            move |_: Option<&String>| {
                let mut mistakes = Mistakes::default();
                let text = read_file(&path).unwrap_or_else(|error| {
                    mistakes.add(
                        "log.level_file",
                        error.to_string(),
                        "write a level into it, or take the key away",
                    );
                    "info".to_owned()
                });
                if let Err((problem, remedy)) = checked_level(text.trim()) {
                    mistakes.add("log.level_file", format!("{:?} {problem}", text.trim()), remedy);
                }
                if mistakes.is_empty() { Ok(text.trim().to_owned()) } else { Err(mistakes) }
            }
        };
        Followed::open(vec![path.clone()], read).map(Arc::new)
    });
    let file = file.transpose()?;
    let level = file.as_ref().map_or_else(|| log.level.clone(), |file| file.current().to_string());
    let terminal = std::io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let builder = fmt().with_writer(std::io::stderr).with_ansi(terminal).with_target(false);
    let (started, set): (_, Box<dyn Fn(EnvFilter) + Send + Sync>) = if json {
        let builder = builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_env_filter(filter(&level))
            .with_filter_reloading();
        let handle = builder.reload_handle();
        (builder.try_init(), Box::new(move |filter| _ = handle.reload(filter)))
    } else {
        let builder = builder.compact().with_env_filter(filter(&level)).with_filter_reloading();
        let handle = builder.reload_handle();
        (builder.try_init(), Box::new(move |filter| _ = handle.reload(filter)))
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(Level { set, file })
}

impl Level {
    /// Follows the file, where there is one, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let Some(file) = self.file else { return };
        let tell = |level: &String, refreshed: Option<Refreshed>| match refreshed {
            Some(Refreshed::Changed) => {
                tracing::info!(level, "what is logged changes");
                (self.set)(filter(level));
            }
            Some(Refreshed::Refused(mistakes)) => {
                tracing::warn!(%mistakes, "the new log level is refused, the old one stays");
            }
            Some(Refreshed::Unchanged) | None => {}
        };
        file.follow(stop, tell).await;
    }
}

fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"))
}
