//! `payops policy check`: what the callers file says of one caller and one
//! request, rule by rule. Asks no boundary: it reads the file.

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::callers::CallersFile;
use crate::cli::{EXIT_CONFIGURATION, EXIT_REFUSED, Failed, print};
use crate::config::{Config, Mistakes};
use crate::payment::{
    Amount,
    id::{AccountId, Currency},
    permit::Denied,
};
use crate::policy::{Asked, Rights, Rpc, Rule};

/// Something is missing on the command line.
const EXIT_USAGE: u8 = 2;

/// Ask the rules of the callers file
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Explain whether a caller may do something, and which rule decides; exits with 1 if it may not
    Check(Check),
}

/// Who wants to do what.
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration file, which names the callers file (or PAYOPS_CONFIG)
    #[arg(long)]
    config: Option<PathBuf>,
    /// The callers file, where there is no configuration
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    callers_file: Option<PathBuf>,
    /// The caller's name
    #[arg(long)]
    caller: String,
    /// Of a caller who is not declared: the issuer that admits it, where several could
    #[arg(long)]
    issuer: Option<String>,
    /// What is called, such as Capture
    #[arg(long)]
    rpc: Rpc,
    /// The transaction's account
    #[arg(long, required_if_eq_any = [("rpc", "Capture"), ("rpc", "Void"), ("rpc", "Refund"), ("rpc", "GetTransaction")])]
    account: Option<AccountId>,
    /// The transaction's currency
    #[arg(long)]
    currency: Option<Currency>,
    /// The amount, in minor units
    #[arg(long, value_parser = amount, required_if_eq_any = [("rpc", "Capture"), ("rpc", "Refund")])]
    amount: Option<i64>,
    /// For people, or for programs
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

fn amount(text: &str) -> Result<i64, String> {
    let amount = text.parse().ok().and_then(Amount::new).map(Amount::minor);
    amount.ok_or_else(|| "must be 1 to 2147483647 minor units".to_owned())
}

/// Carries it out.
pub fn run(command: &Command) -> Result<(), Failed> {
    let Command::Check(check) = command;
    let rights = check.rights()?;
    let asked = check.asked();
    if asked.currency.is_none()
        && asked.rpc.moves_money()
        && rights.rules.iter().any(|rule| by_currency(rule, &asked))
    {
        let why = "--currency: is missing, and rules of this caller ask for it; name the transaction's";
        return Err(Failed::new(why, EXIT_USAGE));
    }
    let decision = rights.decide(&asked);
    let text = match check.output {
        Output::Table => check.table(&rights, &asked, &decision),
        Output::Json => check.json(&rights, &asked, &decision),
    };
    print(&text)?;
    match decision {
        Ok(_) => Ok(()),
        Err(_) => Err(Failed::new("denied", EXIT_REFUSED)),
    }
}

/// Whether the currency decides what the rule says.
fn by_currency(rule: &Rule, asked: &Asked<'_>) -> bool {
    matches!(rule.covers(asked), Err(Denied::Currency { .. }))
}

impl Check {
    fn rights(&self) -> Result<std::sync::Arc<Rights>, Failed> {
        let file = match &self.callers_file {
            Some(file) => file.clone(),
            None => {
                Config::from_path(self.config.as_deref(), crate::config::variables())
                    .map_err(unusable)?
                    .callers
                    .file
            }
        };
        let callers = CallersFile::open(file).map_err(unusable)?.current();
        if callers.names().any(|name| name == self.caller) {
            return Ok(callers.rights(&self.caller, None));
        }
        let issuers = callers.issuers_of(&self.caller);
        let issuer = match (&self.issuer, issuers.as_slice()) {
            (Some(issuer), known) if known.contains(&issuer.as_str()) => issuer.as_str(),
            (None, [only]) => *only,
            (None, [_, ..]) => {
                let why = format!("--issuer: is missing; {} admit such a caller", issuers.join(" and "));
                return Err(Failed::new(why, EXIT_USAGE));
            }
            _ => {
                let why = format!(
                    "--caller: nobody is called {:?}; name a [[caller]] of the file, or one whom an issuer admits",
                    self.caller
                );
                return Err(Failed::new(why, EXIT_USAGE));
            }
        };
        Ok(callers.rights(&self.caller, Some(issuer)))
    }

    fn asked(&self) -> Asked<'_> {
        let Self { rpc, account, currency, amount, .. } = self;
        Asked { rpc: *rpc, account: account.as_ref(), currency: currency.as_ref(), amount: *amount }
    }

    /// What else holds for what is allowed.
    fn limit(&self, rule: &Rule, asked: &Asked<'_>) -> String {
        match (rule.allowed(asked).day_max, &self.currency) {
            (Some(max), Some(currency)) => format!(
                "  as long as all that {:?} begins that day (UTC) by {} on one account is at most {max} minor units of \
                 {currency}\n",
                self.caller, self.rpc
            ),
            _ => String::new(),
        }
    }

    fn table(&self, rights: &Rights, asked: &Asked<'_>, decision: &Result<&Rule, Denied>) -> String {
        let mut text = match decision {
            Ok(rule) => format!("allowed by {rule}\n{}", self.limit(rule, asked)),
            Err(denied) => format!("denied: {denied}\n"),
        };
        for rule in &rights.rules {
            // Writing to a String cannot fail.
            _ = writeln!(text, "  {rule}: {}", verdict(&rule.covers(asked)));
        }
        if rights.rules.is_empty() {
            _ = writeln!(text, "  there is no rule for {:?}", self.caller);
        }
        text
    }

    fn json(&self, rights: &Rights, asked: &Asked<'_>, decision: &Result<&Rule, Denied>) -> String {
        let named = |rule: &Rule| json!({"of": rule.of, "nth": rule.nth, "line": rule.line});
        let rules = rights.rules.iter().map(|rule| {
            let verdict = verdict(&rule.covers(asked));
            json!({"of": rule.of, "nth": rule.nth, "line": rule.line, "covers": rule.covers(asked).is_ok(), "verdict": verdict})
        });
        let told = json!({
            "caller": self.caller,
            "rpc": self.rpc.as_str(),
            "allowed": decision.is_ok(),
            "rule": decision.as_ref().ok().map(|rule| named(rule)),
            "day_max": decision.as_ref().ok().and_then(|rule| rule.allowed(asked).day_max),
            "denied": decision.as_ref().err().map(ToString::to_string),
            "rules": rules.collect::<Vec<_>>(),
        });
        format!("{told}\n")
    }
}

fn verdict(covers: &Result<(), Denied>) -> String {
    match covers {
        Ok(()) => "covers it".to_owned(),
        Err(Denied::Rpc(rpc)) => format!("is not about {rpc}"),
        Err(Denied::Account { account, .. }) => format!("is not about account {account}"),
        Err(Denied::Currency { currency, .. }) => format!("is not about {currency}"),
        Err(Denied::Amount { currency, max, .. }) => {
            format!("allows at most {max} minor units of {currency} in one operation")
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn unusable(mistakes: Mistakes) -> Failed {
    Failed::new(format!("the configuration is not usable:\n{mistakes}"), EXIT_CONFIGURATION)
}
