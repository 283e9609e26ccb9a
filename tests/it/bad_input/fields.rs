//! Fields of the three commands.

use payops::grpc::pb;
use tonic::Code;

use super::{CARD, Row, hold};
use crate::support::{TestApp, capture, line};

const INT32: &str = "int32";

#[tokio::test]
async fn a_wrong_field_of_a_command_is_named_with_its_remedy() {
    let app = TestApp::start().await;
    hold(&app, commands()).await;
}

#[tokio::test]
async fn a_wrong_field_of_a_line_is_named_with_its_remedy() {
    let app = TestApp::start().await;
    hold(&app, lines()).await;
}

/// Where a card's number is written into a text, that is refused, and nothing repeats the number: neither the answer
/// nor the name of the field.
#[tokio::test]
async fn a_text_with_the_number_of_a_card_is_refused_without_repeating_it() {
    const NUMBER: &str = "4111111111111111";
    const SPACED: &str = "paid with 4111 1111-1111 1111, Anna";
    let entry = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let remedy = "must not hold the number of a card: leave it out";
    let rows = vec![
        Row::refund("a card in the reason", |m| m.reason = own(SPACED)).invalid(["reason"], remedy),
        Row::refund("a card in the reference", |m| m.reference = own(NUMBER)).invalid(["reference"], remedy),
        Row::capture("a card in the reference", |m| m.reference = own("4111-1111-1111-1111"))
            .invalid(["reference", "reference"], remedy),
        Row::capture("a card in the metadata", |m| m.metadata = entry("note", SPACED))
            .invalid(["metadata[\"note\"]"], remedy),
        Row::capture("a card for a key of metadata", |m| m.metadata = entry(NUMBER, "x"))
            .invalid(["metadata"], remedy),
        Row::item("a card in the description", |item| item.description = own(SPACED))
            .invalid(["items[0].description"], remedy),
        Row::item("a card in a discount", |item| {
            item.discount_lines = vec![pb::DiscountLine { description: own(SPACED), ..Default::default() }];
        })
        .invalid(["items[0].discount_lines[0].description"], remedy),
        Row::item("a card for a group", |item| {
            item.groups = vec![pb::ItemGroup { id: own("g"), name: own(SPACED) }];
        })
        .invalid(["items[0].groups[0].name"], remedy),
        Row::item("a card for a store", |item| {
            item.store = Some(pb::Store { id: own("s"), name: own(SPACED), ..Default::default() });
        })
        .invalid(["items[0].store.name"], remedy),
    ];
    let app = TestApp::start().await;
    let orders = app.orders().await;
    for row in &rows {
        let (_, words) = row.sent.send(&app, &orders).await;
        assert!(!words.contains("1111"), "{words}");
    }
    hold(&app, rows).await;
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let app = TestApp::start().await;
    let wrong = Row::capture("everything", |message| {
        let mut first = line("a", 0);
        first.vat_percent = "1.234".to_owned();
        first.quantity = "x".to_owned();
        first.r#type = 99;
        first.thumbnail_url = "http://a".to_owned();
        first.store = Some(pb::Store::default());
        first.groups = vec![pb::ItemGroup::default()];
        first.fee_split = Some(pb::FeeSplit { destinations: vec!["x".to_owned()] });
        *message = pb::CaptureRequest {
            transaction_id: "../T12345678.a".to_owned(),
            amount: -1,
            items: vec![first, line("a", -5)],
            reference: "a b".to_owned(),
            metadata: [("ext_a".to_owned(), "\n".to_owned()), ("operation_id".to_owned(), String::new())]
                .into(),
            currency_code: "nok".to_owned(),
            expected_remaining: Some(-1),
            ..Default::default()
        };
    })
    .key(Some("a b"))
    .status(
        Code::InvalidArgument,
        "IDEMPOTENCY_KEY_INVALID",
        [
            "amount",
            "items",
            "items[1].line_id",
            "items[0].type",
            "items[0].amount",
            "items[0].vat_percent",
            "items[0].thumbnail_url",
            "items[0].fee_split.destinations",
            "items[0].quantity",
            "items[0].groups[0].id",
            "items[0].store.id",
            "items[1].amount",
            "reference",
            "metadata[\"ext_a\"]",
            "metadata[\"ext_a\"]",
            "metadata[\"operation_id\"]",
            "metadata.idempotency-key",
            "transaction_id",
            "currency_code",
            "expected_remaining",
        ],
        Some(false),
        "20 things are wrong: amount, items, items[1].line_id",
    );
    hold(&app, vec![wrong]).await;
}

#[tokio::test]
async fn an_answer_with_very_many_violations_still_fits_the_headers_of_every_client() {
    let app = TestApp::start().await;
    let mut message = capture(CARD, 400);
    message.items = (0..400)
        .map(|number| pb::Item { quantity: "x".to_owned(), ..line(&number.to_string(), 1) })
        .collect();
    let refused = app.orders().await.capture_with("k", message).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let fields = refused.fields();
    let expected: Vec<_> = (0..fields.len()).map(|index| format!("items[{index}].quantity")).collect();
    assert_eq!(fields, expected);
    assert!(fields.len() > 20, "{}", fields.len());
    assert!(refused.status.message().starts_with("400 things are wrong: items[0].quantity, "));
    assert!(refused.status.message().ends_with(" and 390 more"), "{}", refused.status.message());
    // 8 KiB is the limit of grpc-java and of gRPC's core. A byte of detail takes 4/3, one of the message 3 at most.
    let bytes = refused.status.details().len().div_ceil(3) * 4 + refused.status.message().len() * 3;
    assert!(bytes < 7 * 1024, "{bytes}");
}

fn own(text: &str) -> String {
    text.to_owned()
}

fn commands() -> Vec<Row> {
    let text = |characters: usize| "x".repeat(characters);
    let entry = |key: &str, value: &str| -> std::collections::HashMap<String, String> {
        [(key.to_owned(), value.to_owned())].into()
    };
    let minor = "1 to 2147483647 minor units";
    let letters = "letters, digits, '_', '.' or '-'";
    let plain = "no control characters";
    let mut rows = vec![
        Row::capture("amount 0", |m| m.amount = 0).invalid(["amount"], minor),
        Row::capture("amount -1", |m| m.amount = -1).invalid(["amount"], minor),
        Row::capture("amount above int32", |m| m.amount = 2_147_483_648).invalid(["amount"], minor),
        Row::capture("the least int64", |m| m.amount = i64::MIN).invalid(["amount"], minor),
        Row::capture("reference of 19", |m| m.reference = text(19)).invalid(["reference"], "at most 18"),
        Row::capture("reference with _", |m| m.reference = own("a_b")).invalid(["reference"], "'-'"),
        Row::capture("reference with newline", |m| m.reference = own("a\n")).invalid(["reference"], "'-'"),
        Row::capture("small currency", |m| m.currency_code = own("nok"))
            .invalid(["currency_code"], "such as NOK"),
        Row::capture("currency of 4", |m| m.currency_code = own("NOKK"))
            .invalid(["currency_code"], "three capital letters"),
        Row::capture("negative remaining", |m| m.expected_remaining = Some(-1))
            .invalid(["expected_remaining"], "leave it out"),
        Row::capture("21 metadata entries", |m| {
            m.metadata = (0..21).map(|n| (format!("k{n}"), String::new())).collect();
        })
        .invalid(["metadata"], "at most 20 entries, not 21"),
        Row::capture("metadata key of payops", |m| m.metadata = entry("operation_id", "a"))
            .invalid(["metadata[\"operation_id\"]"], "choose another"),
        Row::capture("metadata key with ext_", |m| m.metadata = entry("ext_order", "a"))
            .invalid(["metadata[\"ext_order\"]"], "without ext_"),
        Row::capture("empty metadata key", |m| m.metadata = entry("", "a"))
            .invalid(["metadata[\"\"]"], letters),
        Row::capture("metadata key of 125", |m| m.metadata = entry(&text(125), "a"))
            .invalid([format!("metadata[{:?}]", text(40))], "1 to 124"),
        Row::capture("metadata key with newline", |m| m.metadata = entry("a\nb", "a"))
            .invalid(["metadata[\"a\\nb\"]"], letters),
        Row::capture("metadata key not ASCII", |m| m.metadata = entry("é", "a"))
            .invalid(["metadata[\"é\"]"], letters),
        Row::capture("metadata value of 257", |m| m.metadata = entry("a", &text(257)))
            .invalid(["metadata[\"a\"]"], "at most 256 characters"),
        Row::capture("metadata value with newline", |m| m.metadata = entry("a", "b\nc"))
            .invalid(["metadata[\"a\"]"], plain),
        Row::capture("metadata value with NUL", |m| m.metadata = entry("a", "\0"))
            .invalid(["metadata[\"a\"]"], plain),
        Row::refund("amount 0", |m| m.amount = 0).invalid(["amount"], minor),
        Row::refund("amount above int32", |m| m.amount = i64::MAX).invalid(["amount"], minor),
        Row::refund("reason of 256", |m| m.reason = text(256)).invalid(["reason"], "at most 255"),
        Row::refund("reason with escape", |m| m.reason = own("\u{1b}[2J")).invalid(["reason"], plain),
        Row::refund("terminal of 65", |m| m.terminal_id = text(65)).invalid(["terminal_id"], "1 to 64"),
        Row::refund("terminal with /", |m| m.terminal_id = own("a/b")).invalid(["terminal_id"], letters),
        Row::refund("reference of 19", |m| m.reference = text(19)).invalid(["reference"], "at most 18"),
        Row::refund("lines of another sum", |m| m.items = vec![line("1", 99)])
            .invalid(["items"], "they are 99, and amount is 100"),
        Row::refund("metadata value of 257", |m| m.metadata = entry("a", &text(257)))
            .invalid(["metadata[\"a\"]"], "at most 256 characters"),
        Row::refund("small currency", |m| m.currency_code = own("nok"))
            .invalid(["currency_code"], "such as NOK"),
        Row::refund("negative remaining", |m| m.expected_remaining = Some(i64::MIN))
            .invalid(["expected_remaining"], "leave it out"),
        Row::void("small currency", |m| m.currency_code = own("n0K"))
            .invalid(["currency_code"], "such as NOK"),
        Row::void("negative remaining", |m| m.expected_remaining = Some(-1))
            .invalid(["expected_remaining"], "leave it out"),
    ];
    // To check only is no excuse.
    rows.push(
        Row::capture("amount 0, to validate", |m| (m.amount, m.validate_only) = (0, true))
            .invalid(["amount"], minor),
    );
    rows
}

fn lines() -> Vec<Row> {
    let text = |characters: usize| "x".repeat(characters);
    let required = "is required";
    let plain = "no control characters";
    let decimal = "a decimal such as 1 or 2.5";
    let sum = "must add up to amount";
    let discount = |spoil: fn(&mut pb::DiscountLine)| {
        let mut discount = pb::DiscountLine::default();
        spoil(&mut discount);
        move |item: &mut pb::Item| item.discount_lines = vec![discount]
    };
    let split = |to: &str, amount: i64| pb::PayoutSplit { payout_destination_id: to.to_owned(), amount };
    let store = |id: &str| pb::Store { id: id.to_owned(), ..Default::default() };
    vec![
        Row::lines("a sum that differs", &[("1", 60), ("2", 41)])
            .invalid(["items"], "they are 101, and amount is 100"),
        Row::lines("the same line twice", &[("1", 60), ("1", 40)]).invalid(["items[1].line_id"], "unique"),
        Row::lines("a line without an id", &[("", 100)]).invalid(["items[0].line_id"], required),
        Row::lines("a line of 0", &[("1", 0), ("2", 100)]).invalid(["items[0].amount"], "not zero"),
        Row::lines("a negative line", &[("1", 150), ("2", -50)])
            .invalid(["items[1].amount"], "only for a line of type ITEM_TYPE_GIFT_CARD"),
        Row::lines("a line above int32", &[("1", 2_147_483_648)])
            .invalid(["items", "items[0].amount"], INT32),
        Row::lines("lines whose sum overflows", &[("1", i64::MAX), ("2", i64::MAX)])
            .invalid(["items", "items[0].amount", "items[1].amount"], sum),
        Row::capture("501 lines", |m| m.items = (0..501).map(|n| line(&n.to_string(), 1)).collect())
            .invalid(["items"], "at most 500, not 501"),
        Row::item("id of 129", |i| i.line_id = text(129)).invalid(["items[0].line_id"], "at most 128"),
        Row::item("id with tab", |i| i.line_id = own("1\t")).invalid(["items[0].line_id"], plain),
        Row::item("unknown type", |i| i.r#type = 99).invalid(["items[0].type"], "a value of ItemType"),
        Row::item("negative type", |i| i.r#type = -1).invalid(["items[0].type"], "a value of ItemType"),
        Row::item("SKU of 129", |i| i.id = text(129)).invalid(["items[0].id"], "at most 128"),
        Row::item("description of 501", |i| i.description = text(501))
            .invalid(["items[0].description"], "at most 500"),
        Row::item("description with newline", |i| i.description = own("a\nb"))
            .invalid(["items[0].description"], plain),
        Row::item("quantity with comma", |i| i.quantity = own("1,5")).invalid(["items[0].quantity"], decimal),
        Row::item("negative quantity", |i| i.quantity = own("-1")).invalid(["items[0].quantity"], decimal),
        Row::item("quantity with 7 decimals", |i| i.quantity = own("1.1234567"))
            .invalid(["items[0].quantity"], "six decimals"),
        Row::item("quantity of 10 digits", |i| i.quantity = own("1234567890"))
            .invalid(["items[0].quantity"], "nine digits"),
        Row::item("VAT with 3 decimals", |i| i.vat_percent = own("25.125"))
            .invalid(["items[0].vat_percent"], "at most two decimals"),
        Row::item("VAT with a sign", |i| i.vat_percent = own("25%"))
            .invalid(["items[0].vat_percent"], decimal),
        Row::item("VAT above int32", |i| i.vat_amount = Some(1 << 31))
            .invalid(["items[0].vat_amount"], INT32),
        Row::item("volume", |i| i.unit_volume = own("x")).invalid(["items[0].unit_volume"], decimal),
        Row::item("weight", |i| i.unit_weight = own("1e3")).invalid(["items[0].unit_weight"], decimal),
        Row::item("dimensional weight", |i| i.unit_dimensional_weight = own("NaN"))
            .invalid(["items[0].unit_dimensional_weight"], decimal),
        Row::item("http thumbnail", |i| i.thumbnail_url = own("http://a/b"))
            .invalid(["items[0].thumbnail_url"], "an https URL"),
        Row::item("thumbnail with space", |i| i.thumbnail_url = own("https://a/b c"))
            .invalid(["items[0].thumbnail_url"], "an https URL"),
        Row::item("thumbnail of 1025", |i| i.thumbnail_url = format!("https://{}", text(1017)))
            .invalid(["items[0].thumbnail_url"], "at most 1024"),
        Row::item("group without id", |i| i.groups = vec![pb::ItemGroup { id: own(""), name: own("a") }])
            .invalid(["items[0].groups[0].id"], required),
        Row::item("group name of 256", |i| i.groups = vec![pb::ItemGroup { id: own("a"), name: text(256) }])
            .invalid(["items[0].groups[0].name"], "at most 255"),
        Row::item("51 groups", |i| i.groups = vec![pb::ItemGroup { id: own("a"), name: own("") }; 51])
            .invalid(["items[0].groups"], "at most 50, not 51"),
        Row::item("discount type", discount(|d| d.discount_type = own("black-friday")))
            .invalid(["items[0].discount_lines[0].discount_type"], "one of customer, periodic"),
        Row::item("discount above int32", discount(|d| d.amount = Some(1 << 31)))
            .invalid(["items[0].discount_lines[0].amount"], INT32),
        Row::item("discount percentage", discount(|d| d.percentage = own("ten")))
            .invalid(["items[0].discount_lines[0].percentage"], decimal),
        Row::item("discount id of 129", discount(|d| d.discount_id = "x".repeat(129)))
            .invalid(["items[0].discount_lines[0].discount_id"], "at most 128"),
        Row::item("discount description", discount(|d| d.description = own("\r")))
            .invalid(["items[0].discount_lines[0].description"], plain),
        Row::item("discount line", discount(|d| d.line_id = Some(1 << 31)))
            .invalid(["items[0].discount_lines[0].line_id"], INT32),
        Row::item("split of 0", |i| i.splits = vec![split("a", 0)])
            .invalid(["items[0].splits[0].amount"], "not zero"),
        Row::item("split above int32", |i| i.splits = vec![split("a", 1 << 31)])
            .invalid(["items[0].splits[0].amount"], INT32),
        Row::item("split to nobody", |i| i.splits = vec![split("", 1)])
            .invalid(["items[0].splits[0].payout_destination_id"], required),
        Row::item("51 splits", |i| i.splits = vec![split("a", 1); 51])
            .invalid(["items[0].splits"], "at most 50, not 51"),
        Row::item("fees of nobody", |i| i.fee_split = Some(pb::FeeSplit { destinations: vec![own("a")] }))
            .invalid(["items[0].fee_split.destinations"], "appear among the splits"),
        Row::item("store without id", |i| i.store = Some(store(""))).invalid(["items[0].store.id"], required),
        Row::item("store name of 256", |i| i.store = Some(pb::Store { name: text(256), ..store("a") }))
            .invalid(["items[0].store.name"], "at most 255"),
        Row::item("store terminal of 65", |i| {
            i.store = Some(pb::Store { terminal_id: text(65), ..store("a") });
        })
        .invalid(["items[0].store.terminal_id"], "at most 64"),
        Row::item("store seller of 129", |i| {
            i.store = Some(pb::Store { payout_destination_id: text(129), ..store("a") });
        })
        .invalid(["items[0].store.payout_destination_id"], "at most 128"),
    ]
}
