use std::collections::BTreeMap;

use super::*;
use crate::payment::{
    Operation,
    permit::{Allowed, Denied, Permit},
};
use crate::policy::{Asked, Rights};

const FILE: &str = r#"
[[caller]]
name = "orders"
token_sha256 = ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]

[[caller.allow]]
rpcs = ["Capture", "Void"]
accounts = ["T12345678"]
currencies = ["NOK", "SEK"]
amount_max = { NOK = 1_000, SEK = 2_000 }

[[caller.allow]]
rpcs = ["Capture"]
accounts = ["T12345678"]
currencies = ["DKK"]

[[caller.allow]]
rpcs = ["Capture"]
accounts = ["T87654321"]

[[caller]]
name = "idle"
certificate_names = ["idle.example"]

[[caller]]
name = "all"
certificate_names = ["all.example"]
allow = [{ rpcs = ["*"], accounts = ["*"] }]

[[issuer]]
name = "cluster"
kubernetes = true
url = "https://cluster.example"
audiences = ["payops"]
admit = "all"

[[group]]
name = "readers"
callers = ["orders"]
issuers = ["cluster"]

[[group.allow]]
rpcs = ["GetTransaction", "GetOperation"]
accounts = ["T12345678"]
"#;

fn rights(caller: &str, issuer: Option<&str>) -> Arc<Rights> {
    Callers::parse(FILE).unwrap_or_else(|wrong| panic!("{wrong}")).rights(caller, issuer)
}

/// What is said to a request: the line of the rule that allows it, or the reason.
fn told(rights: &Rights, rpc: Rpc, account: &str, currency: Option<&str>, amount: Option<i64>) -> String {
    let account = account.parse().unwrap();
    let currency = currency.map(|currency| currency.parse().unwrap());
    let asked = Asked { rpc, account: Some(&account), currency: currency.as_ref(), amount };
    match rights.decide(&asked) {
        Ok(rule) => format!("line {}", rule.line),
        Err(denied) => denied.to_string(),
    }
}

#[test]
fn each_rule_allows_and_denies() {
    use Rpc::{Capture, GetOperation, GetTransaction, Refund, Void, WatchOperation};
    let orders = rights("orders", None);
    let (ours, other, third) = ("T12345678", "T87654321", "T00000000");
    for (rpc, account, currency, amount, due) in [
        // RPC.
        (Capture, ours, Some("NOK"), Some(1), "line 6"),
        (Void, ours, Some("NOK"), None, "line 6"),
        (Refund, ours, Some("NOK"), Some(1), "to call Refund"),
        (WatchOperation, ours, None, None, "to call WatchOperation"),
        // Account.
        (Void, other, Some("NOK"), None, "to call Void on account T87654321"),
        (Capture, third, Some("NOK"), Some(1), "to call Capture on account T00000000"),
        (GetTransaction, ours, None, None, "line 42"),
        (GetTransaction, other, None, None, "to call GetTransaction on account T87654321"),
        (GetOperation, ours, None, None, "line 42"),
        // Currency.
        (Capture, ours, Some("EUR"), Some(1), "to call Capture on a transaction in EUR"),
        (Capture, ours, None, Some(1), "on a transaction in another currency"),
        (Void, ours, Some("DKK"), None, "to call Void on a transaction in DKK"),
        // Amount per operation.
        (Capture, ours, Some("NOK"), Some(1_000), "line 6"),
        (Capture, ours, Some("NOK"), Some(1_001), "at most 1000 minor units of NOK in one Capture"),
        (Capture, ours, Some("SEK"), Some(2_000), "line 6"),
        (Capture, ours, Some("SEK"), Some(2_001), "at most 2000 minor units of SEK in one Capture"),
        // A rule without amounts, and one without currencies.
        (Capture, ours, Some("DKK"), Some(2_147_483_647), "line 12"),
        (Capture, other, Some("EUR"), Some(2_147_483_647), "line 17"),
        (Capture, other, None, Some(1), "line 17"),
    ] {
        let told = told(&orders, rpc, account, currency, amount);
        assert!(told.ends_with(due), "{rpc} {account} {currency:?} {amount:?}: {told}");
    }
}

#[test]
fn what_no_rule_allows_is_denied() {
    for rpc in Rpc::ALL {
        for (caller, issuer) in [("idle", None), ("nobody", None), ("shop/till", Some("other"))] {
            let rights = rights(caller, issuer);
            assert_eq!(rights.may_call(rpc), Err(Denied::Rpc(rpc.as_str())), "{caller}");
            assert!(told(&rights, rpc, "T12345678", Some("NOK"), Some(1)).contains("no rule"), "{caller}");
        }
        assert_eq!(rights("all", None).may_call(rpc), Ok(()));
        assert_eq!(told(&rights("all", None), rpc, "P99999999", None, Some(1)), "line 28");
    }
}

#[test]
fn whom_an_issuer_admits_has_what_its_groups_have() {
    let admitted = rights("shop/till", Some("cluster"));
    assert_eq!(told(&admitted, Rpc::GetTransaction, "T12345678", None, None), "line 42");
    assert!(admitted.may_call(Rpc::Capture).is_err());
}

#[test]
fn the_first_rule_that_covers_all_of_it_decides() {
    let rule = |nth, max: i64| Rule {
        of: "caller \"orders\"".to_owned(),
        nth,
        line: nth,
        rpcs: [Rpc::Capture].into(),
        accounts: None,
        currencies: Some([("NOK".parse().unwrap(), Bounds { amount_max: Some(max), day_max: None })].into()),
    };
    let rights = Rights {
        pace: crate::policy::pace::Pace::default(),
        rules: [rule(1, 10), rule(2, 1_000), rule(3, 100)].map(Arc::new).to_vec(),
    };
    for (amount, due) in [(10, "line 1"), (11, "line 2"), (1_000, "line 2")] {
        assert_eq!(told(&rights, Rpc::Capture, "T12345678", Some("NOK"), Some(amount)), due);
    }
    // The most generous of those that say no is told.
    assert!(told(&rights, Rpc::Capture, "T12345678", Some("NOK"), Some(1_001)).contains("at most 1000 "));
}

fn operation(account: &str, amount: i64) -> Operation {
    let capture = crate::payment::Capture {
        amount: crate::payment::Amount::new(amount).unwrap(),
        items: Vec::new(),
        reference: None,
        metadata: BTreeMap::new(),
        final_capture: false,
    };
    Operation {
        transaction: format!("{account}.465UfBENeLpkBvwmqfTC4k").parse().unwrap(),
        action: crate::payment::Action::Capture(capture),
    }
}

#[test]
fn a_currency_that_nobody_named_is_looked_up_only_where_it_matters() {
    let orders = rights("orders", None);
    let nok: Currency = "NOK".parse().unwrap();
    // No rule for that account names a currency.
    let plain = orders.permit(&operation("T87654321", 5_000), None);
    assert_eq!(plain, Permit::default());
    let open = orders.permit(&operation("T12345678", 1_500), None);
    assert!(open.needs_currency() && open.denied().is_none());
    let ruling = |currency| open.ruling(currency).map_err(|denied| denied.to_string());
    assert!(ruling("NOK").unwrap_err().contains("at most 1000 "));
    assert_eq!((ruling("SEK"), ruling("DKK")), (Ok(Allowed::default()), Ok(Allowed::default())));
    assert!(ruling("EUR").unwrap_err().contains("in EUR"), "the transaction's own is named");
    // Whoever names it is answered at once.
    let named = orders.permit(&operation("T12345678", 1_500), Some(&nok));
    assert!(!named.needs_currency() && named.denied().unwrap().to_string().contains("at most 1000 "));
    // Nor is anything read for what no currency would make right.
    let hopeless = orders.permit(&operation("T00000000", 1), None);
    assert!(hopeless.denied().unwrap().to_string().contains("on account T00000000"));
}

#[test]
fn every_mistake_of_rules_is_told_at_once() {
    let text = "
        [[caller]]
        name = 'orders'
        token_sha256 = ['ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad']
        allow = [
            {},
            { rpcs = [], accounts = 7 },
            { rpcs = ['Capture', '*', 'capture', 'ListOperations', 7], accounts = ['P1'], colour = 1 },
            { rpcs = ['*'], accounts = ['*'], amount_max = { NOK = 1 } },
            { rpcs = ['*'], accounts = ['*'], currencies = ['*'] },
            { rpcs = ['*'], accounts = ['*'], currencies = ['NOK', 'kr'], amount_max = { SEK = 1, x = 1 } },
            { rpcs = ['*'], accounts = ['*'], currencies = ['NOK'], amount_max = { NOK = 0 } },
            { rpcs = ['*'], accounts = ['*'], currencies = ['NOK'], amount_max = 7 },
            7,
        ]
        [[group]]
        name = 'Shops'
        [[group]]
        name = 'shops'
        callers = ['orders', 'returns']
        issuers = ['cluster']
        allow = {}
        [[group]]
        name = 'shops'
        callers = 'orders'
    ";
    let mistakes = Callers::parse(text).unwrap_err();
    let told: Vec<(&str, &str)> =
        mistakes.iter().map(|mistake| (mistake.key.as_str(), mistake.problem.as_str())).collect();
    let at = |place: &str| format!("caller[0].allow{place}");
    let due = [
        (at("[0].rpcs"), "is missing"),
        (at("[0].accounts"), "is missing"),
        (at("[1].rpcs"), "is no list, or empty"),
        (at("[1].accounts"), "is no list, or empty"),
        (at("[2].rpcs[1]"), "is all, beside others"),
        (
            at("[2].rpcs[2]"),
            "\"capture\" must be one of Capture, Void, Refund, GetTransaction, GetOperation, WatchOperation",
        ),
        (at("[2].rpcs[3]"), "\"ListOperations\" goes with review = true, and not with a rule"),
        (at("[2].rpcs[4]"), "is no text"),
        (at("[2].accounts[0]"), "\"P1\" must be T or P and eight digits, such as P12345678"),
        (at("[2].colour"), "is unknown"),
        (at("[3].amount_max"), "is there without currencies"),
        (at("[4].currencies"), "is all"),
        (at("[5].currencies[1]"), "\"kr\" must be an ISO 4217 code of three capital letters, such as NOK"),
        (at("[5].amount_max"), "has nothing for NOK"),
        (at("[5].amount_max.SEK"), "SEK is not among the rule's currencies"),
        (at("[5].amount_max.x"), "the key must be an ISO 4217 code of three capital letters, such as NOK"),
        (at("[6].amount_max.NOK"), "is no amount"),
        (at("[7].amount_max"), "is no table"),
        (at("[8]"), "is not a table"),
        ("group[0].name".to_owned(), "is not a name"),
        ("group[0]".to_owned(), "has no members"),
        ("group[1].allow".to_owned(), "is no list of rules, or empty"),
        ("group[1].callers[1]".to_owned(), "\"returns\" is no caller of this file"),
        ("group[1].issuers[0]".to_owned(), "\"cluster\" is no issuer that admits everybody"),
        ("group[2].name".to_owned(), "\"shops\" is declared twice"),
        ("group[2].callers".to_owned(), "is no list of names"),
        ("group[2]".to_owned(), "has no members"),
    ];
    assert_eq!(told, due.each_ref().map(|(key, problem)| (key.as_str(), *problem)));
}
