//! `payops doctor`: whether everything is there that a start needs, and what to do where it is not. It only looks: a
//! payops that runs goes on.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, header};
use serde_json::json;

use crate::callers::CallersFile;
use crate::cli::{EXIT_REFUSED, Failed, Output, colours, json_text, print};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config, Mistakes};
use crate::journal::{embedded, postgres};
use crate::listener::tls::Tls;
use crate::psp::{
    NotSent,
    dintero::{
        Dintero,
        transport::{Http, Transport as _, TransportError},
    },
};

/// By how much this machine's clock may differ from the PSP's, in milliseconds. Its own is told in whole seconds.
const CLOCK_MS: u64 = 5_000;

/// Look at what a start needs (configuration, callers, certificate, journal, PSP, clock, tokens), and tell the remedy
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 all is well, 1 something is not.

Example:
  payops doctor --config /etc/payops/payops.toml")]
pub struct Options {
    #[arg(long, help = "The configuration file (or PAYOPS_CONFIG)")]
    config: Option<PathBuf>,
    /// For people, or for programs
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was looked at, and how it is.
struct Finding {
    what: String,
    told: String,
    /// Where it is not well.
    remedy: Option<String>,
}

impl Finding {
    fn well(what: &str, told: impl Into<String>) -> Self {
        Self { what: what.to_owned(), told: told.into(), remedy: None }
    }

    fn unwell(what: &str, told: impl Into<String>, remedy: &str) -> Self {
        Self { what: what.to_owned(), told: told.into(), remedy: Some(remedy.to_owned()) }
    }

    /// What a check of files says, which names the remedies by itself.
    fn of<T>(what: &str, checked: Result<T, Mistakes>, told: impl FnOnce(T) -> String) -> Self {
        match checked {
            Ok(value) => Self::well(what, told(value)),
            Err(mistakes) => Self::unwell(what, mistakes.to_string().trim_end(), "mend what is named"),
        }
    }
}

/// Looks at everything.
pub async fn run(options: Options) -> Result<(), Failed> {
    let findings = match Config::from_path(options.config.as_deref(), config::variables()) {
        // Without it nobody knows where to look.
        Err(mistakes) => vec![Finding::of::<()>("configuration", Err(mistakes), |()| String::new())],
        Ok(config) => examined(&config).await,
    };
    let unwell = findings.iter().filter(|finding| finding.remedy.is_some()).count();
    print(&match options.output {
        Output::Table => findings.iter().map(|finding| line(finding, colours())).collect::<Vec<_>>().concat(),
        Output::Json => json_text(&json!({ "findings": findings.iter().map(value).collect::<Vec<_>>() }))?,
    })?;
    match unwell {
        0 => Ok(()),
        1 => Err(Failed::new("one thing is not well", EXIT_REFUSED)),
        count => Err(Failed::new(format!("{count} things are not well"), EXIT_REFUSED)),
    }
}

async fn examined(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::well("configuration", "every key is understood")];
    findings.push(Finding::of("callers", CallersFile::open(&config.callers.file), |callers| {
        format!("{} of them in {}", callers.current().names().len(), config.callers.file.display())
    }));
    findings.push(match &config.server.tls {
        Some(tls) => {
            Finding::of("certificate", Tls::open(tls), |_| tls.certificate_file.display().to_string())
        }
        None => Finding::well("certificate", "none: callers come without TLS"),
    });
    findings.push(journal(config).await);
    findings.extend(psp(config).await);
    findings
}

async fn journal(config: &Config) -> Finding {
    let what = "journal";
    if let Some(database) = &config.journal.postgres {
        let remedy = "see to the database, its role and its standby: docs/journal-postgres.md; `payops migrate` makes the \
                      tables";
        return match postgres::examine(database).await {
            Ok(()) => Finding::well(
                what,
                "the database has the tables, and what it acknowledges outlives its machine",
            ),
            Err(_) if config.journal.new && database.migrate => {
                Finding::well(what, "the database has no tables yet: the first start makes them")
            }
            Err(error) => Finding::unwell(what, error.to_string(), remedy),
        };
    }
    let directory = config.journal.directory.display();
    match embedded::stats(&config.journal.directory) {
        Ok(stats) if stats.is_moved => Finding::unwell(
            what,
            format!("{directory} was exported, and lives elsewhere since"),
            "name that place",
        ),
        Ok(stats) => {
            let used = if stats.in_use { "in use" } else { "not in use" };
            let count: u64 = stats.states.values().sum();
            Finding::well(what, format!("{directory}, {count} operations, {used}"))
        }
        Err(_) if config.journal.new => {
            Finding::well(what, format!("{directory} is empty: the first start fills it"))
        }
        Err(error) => Finding::unwell(
            what,
            format!("{directory}: {error}"),
            "bring back its volume or a backup; at the first start of all say journal.new = true",
        ),
    }
}

/// Whether the PSP is there, what its clock says, and whether it takes the credentials of each account.
async fn psp(config: &Config) -> Vec<Finding> {
    let clock = Clock::system();
    let http = match Http::new(&config.psp) {
        Ok(http) => http,
        Err(why) => return vec![Finding::unwell("psp", why, "mend psp.ca_file")],
    };
    let base = config.psp.base_url.as_str();
    let request = Request::builder().method(Method::GET).uri(base).body(Bytes::new());
    let Ok(request) = request else { return vec![Finding::unwell("psp", base, "mend psp.base_url")] };
    let mut findings = match http.send(request, config.psp.attempt_timeout).await {
        Ok(answer) => vec![Finding::well("psp", format!("{base} answers")), skew(&answer, clock.now())],
        Err(TransportError::NotSent(why) | TransportError::Unknown(why)) => vec![Finding::unwell(
            "psp",
            format!("{base}: {why}"),
            "look at psp.base_url, at DNS, at what lets connections out (network policy), and at psp.ca_file",
        )],
    };
    let dintero =
        Dintero::new(&config.psp, &config.accounts, config.exactly_once.token_life_min, &http, &clock);
    for (account, token) in dintero.credentials().await {
        let what = format!("account {account}");
        findings.push(match token {
            Ok(life) => Finding::well(&what, format!("its access token lives for {} s", life.as_secs())),
            Err(error @ NotSent::CredentialsRejected(_)) => Finding::unwell(
                &what,
                error.to_string(),
                "look at its client_id, client_secret and their files, and at the client's grants at Dintero",
            ),
            Err(error) => Finding::unwell(
                &what,
                error.to_string(),
                "look at psp.token_base_url, and at what psp says above",
            ),
        });
    }
    findings
}

fn skew(answer: &Response<Bytes>, now: Timestamp) -> Finding {
    let what = "clock";
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let Some(date) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else {
        return Finding::well(what, "the PSP does not tell the time: not compared");
    };
    let apart = now.0.abs_diff(date.timestamp().as_millisecond());
    let told = format!("{}.{} s from the PSP's", apart / 1000, apart % 1000 / 100);
    if apart <= CLOCK_MS {
        return Finding::well(what, told);
    }
    Finding::unwell(
        what,
        told,
        "let the machine synchronise its clock (NTP): payops dates what it records by it",
    )
}

fn line(finding: &Finding, colours: bool) -> String {
    let (word, colour) = if finding.remedy.is_some() { ("FAILED", "1;31") } else { ("ok    ", "32") };
    let word = if colours { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() };
    // What goes on stands below what it belongs to.
    let told = finding.told.replace('\n', "\n        ");
    let mut text = format!("{word}  {}: {told}\n", finding.what);
    if let Some(remedy) = &finding.remedy {
        text = format!("{text}        {remedy}\n");
    }
    text
}

fn value(finding: &Finding) -> serde_json::Value {
    json!({
        "what": finding.what, "ok": finding.remedy.is_none(), "told": finding.told, "remedy": finding.remedy,
    })
}
