//! The file of a batch: read as a whole, checked as a whole, every mistake with its line.

use std::{collections::HashMap, fs, path::Path, str::FromStr as _};

use prost::Message as _;
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};
use tonic::metadata::MetadataMap;

use crate::grpc::{command, pb, violations::Refused};
use crate::payment::{
    Caller,
    id::{CallerName, Reference},
};

/// The largest file, and the most rows.
const BYTES_MAX: u64 = 64 << 20;
const ROWS_MAX: usize = 100_000;
/// The longest reference of a row: with what is put before it, it makes a key.
const REFERENCE_MAX: usize = 110;
/// What the run itself decides.
const NOT_FOR_A_ROW: [&str; 2] = ["validate_only", "async"];

/// A row that could become a call.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Of the file, from 1.
    pub(super) line: u64,
    /// The row's own name for what it asks.
    pub(super) reference: String,
    pub(super) call: Call,
}

/// What a row asks for.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Capture(pb::CaptureRequest),
    Void(pb::VoidRequest),
    Refund(pb::RefundRequest),
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: u64,
    pub(super) field: String,
    /// Completes "the field …".
    pub(super) remedy: String,
}

impl Row {
    /// The same whenever the file is run.
    pub(super) fn key(&self) -> String {
        format!("batch-{}-{}", self.call.operation(), self.reference)
    }
}

impl Call {
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Capture(_) => "capture",
            Self::Void(_) => "void",
            Self::Refund(_) => "refund",
        }
    }

    pub(super) fn transaction(&self) -> &str {
        match self {
            Self::Capture(request) => &request.transaction_id,
            Self::Void(request) => &request.transaction_id,
            Self::Refund(request) => &request.transaction_id,
        }
    }

    /// In minor units; a void has none.
    pub(super) fn amount(&self) -> Option<i64> {
        match self {
            Self::Capture(request) => Some(request.amount),
            Self::Void(_) => None,
            Self::Refund(request) => Some(request.amount),
        }
    }
}

/// The rows of a file, or everything that is wrong with it.
pub(super) fn read(file: &Path) -> Result<Vec<Row>, Vec<Mistake>> {
    let whole = |remedy: String| vec![mistake(0, "", remedy)];
    let size = fs::metadata(file).map_err(|error| whole(format!("cannot be read: {error}")))?.len();
    if size > BYTES_MAX {
        return Err(whole(format!("has {size} bytes: give parts of at most {BYTES_MAX}")));
    }
    let bytes = fs::read(file).map_err(|error| whole(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| whole("is not UTF-8: save it as UTF-8".to_owned()))?;
    // As spreadsheets save it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim().is_empty() {
        return Err(whole("has no rows".to_owned()));
    }
    let is_json = text.trim_start().starts_with('{');
    let (records, mut wrong) = if is_json { json_lines(text) } else { csv(text) };
    if records.len() > ROWS_MAX {
        return Err(whole(format!("has more than {ROWS_MAX} rows: give parts of it")));
    }
    if records.is_empty() && wrong.is_empty() {
        return Err(whole("has no rows".to_owned()));
    }
    let pool =
        DescriptorPool::decode(pb::DESCRIPTORS).map_err(|error| whole(format!("a defect: {error}")))?;
    let mut rows = Vec::with_capacity(records.len());
    let mut named: HashMap<String, u64> = HashMap::new();
    for (line, record) in records {
        match row(line, record, !is_json, &pool) {
            Err(mistakes) => wrong.extend(mistakes),
            Ok(row) => match named.insert(row.key(), line) {
                None => rows.push(row),
                Some(first) => wrong.push(mistake(
                    line,
                    "reference",
                    format!("is that of line {first}, for the same operation: give each row one of its own"),
                )),
            },
        }
    }
    wrong.sort_by_key(|mistake| mistake.line);
    if wrong.is_empty() { Ok(rows) } else { Err(wrong) }
}

type Record = (u64, Map<String, Value>);

fn json_lines(text: &str) -> (Vec<Record>, Vec<Mistake>) {
    let (mut records, mut wrong) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(record) => records.push((line, record)),
            Err(error) => wrong.push(mistake(line, "", format!("must be one JSON object: {error}"))),
        }
    }
    (records, wrong)
}

fn csv(text: &str) -> (Vec<Record>, Vec<Mistake>) {
    let (mut records, mut wrong) = (Vec::new(), Vec::new());
    let first = text.lines().next().unwrap_or_default();
    // Where the comma is a decimal sign, spreadsheets write semicolons.
    let delimiter = if first.contains(';') { b';' } else { b',' };
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_reader(text.as_bytes());
    let headings = match reader.headers() {
        Ok(headings) => headings.clone(),
        Err(error) => return (records, vec![mistake(1, "", error.to_string())]),
    };
    for required in ["operation", "reference", "transaction_id"] {
        if !headings.iter().any(|heading| heading == required) {
            let remedy = format!(
                "is required: begin the file with a line of headings, such as \
                 operation{0}reference{0}transaction_id{0}amount",
                char::from(delimiter)
            );
            wrong.push(mistake(1, required, remedy));
        }
    }
    if !wrong.is_empty() {
        return (records, wrong);
    }
    for record in reader.records() {
        match record {
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                wrong.push(mistake(line, "", format!("must have the columns of the headings: {error}")));
            }
            Ok(record) => {
                let cells = headings.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
                let cells = cells.map(|(heading, cell)| (heading.to_owned(), json!(cell))).collect();
                records.push((record.position().map_or(0, csv::Position::line), cells));
            }
        }
    }
    (records, wrong)
}

/// One line: its names and types by the contract's own descriptors, its values by the rules of the boundary itself.
fn row(
    line: u64,
    mut record: Map<String, Value>,
    is_csv: bool,
    pool: &DescriptorPool,
) -> Result<Row, Vec<Mistake>> {
    let mut wrong = Vec::new();
    let reference = match record.remove("reference") {
        Some(Value::String(text)) if is_reference(&text) => text,
        _ => {
            let remedy = format!(
                "must be the row's own name: 1 to {REFERENCE_MAX} visible ASCII characters without blanks"
            );
            wrong.push(mistake(line, "reference", remedy));
            String::new()
        }
    };
    let operation = record.remove("operation");
    let operation = operation.as_ref().and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    let message = match operation.as_str() {
        "capture" => "payops.v1.CaptureRequest",
        "void" => "payops.v1.VoidRequest",
        "refund" => "payops.v1.RefundRequest",
        _ => {
            wrong.push(mistake(line, "operation", "must be capture, void or refund"));
            return Err(wrong);
        }
    };
    let descriptor = pool
        .get_message_by_name(message)
        .ok_or_else(|| vec![mistake(line, "", format!("a defect: no message {message}"))])?;
    if is_csv {
        wrong.extend(typed(line, &mut record, &descriptor));
    }
    for name in record.keys() {
        let known = descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name));
        if known.is_none() || NOT_FOR_A_ROW.contains(&name.as_str()) {
            let names = descriptor.fields().map(|field| field.name().to_owned());
            let names: Vec<_> = names.filter(|name| !NOT_FOR_A_ROW.contains(&name.as_str())).collect();
            let remedy = format!("is nothing that a {operation} has: {}", names.join(", "));
            wrong.push(mistake(line, name, remedy));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    // On the settlement report, where it fits there.
    if descriptor.get_field_by_name("reference").is_some() && reference.parse::<Reference>().is_ok() {
        record.insert("reference".to_owned(), json!(reference));
    }
    let message = DynamicMessage::deserialize(descriptor, Value::Object(record));
    let bytes = message.map_err(|error| vec![mistake(line, "", error.to_string())])?.encode_to_vec();
    let call = match operation.as_str() {
        "capture" => pb::CaptureRequest::decode(bytes.as_slice()).map(Call::Capture),
        "void" => pb::VoidRequest::decode(bytes.as_slice()).map(Call::Void),
        _ => pb::RefundRequest::decode(bytes.as_slice()).map(Call::Refund),
    };
    let call = call.map_err(|error| vec![mistake(line, "", error.to_string())])?;
    let row = Row { line, reference, call };
    judged(&row)?;
    Ok(row)
}

/// Cells are text: gives them the types of their fields, and says where that cannot be.
fn typed(line: u64, record: &mut Map<String, Value>, descriptor: &MessageDescriptor) -> Vec<Mistake> {
    let mut wrong = Vec::new();
    for (name, value) in record.iter_mut() {
        let (Some(field), Some(text)) = (descriptor.get_field_by_name(name), value.as_str()) else {
            continue;
        };
        if is_nested(&field) {
            wrong.push(mistake(line, name, "does not fit into a column: write the file as JSON lines"));
        } else if field.kind() == Kind::Int64 {
            match text.parse::<i64>() {
                Ok(number) => *value = json!(number),
                Err(_) => wrong.push(mistake(
                    line,
                    name,
                    format!("must be a whole number of minor units (299.90 is 29990), and is {text:?}"),
                )),
            }
        } else if field.kind() == Kind::Bool {
            match bool::from_str(&text.to_ascii_lowercase()) {
                Ok(flag) => *value = json!(flag),
                Err(_) => wrong.push(mistake(line, name, format!("must be true or false, and is {text:?}"))),
            }
        }
    }
    wrong
}

fn is_nested(field: &FieldDescriptor) -> bool {
    field.cardinality() == Cardinality::Repeated || field.kind().as_message().is_some()
}

/// What the boundary would say of it before it looks at any payment.
fn judged(row: &Row) -> Result<(), Vec<Mistake>> {
    let wrong = |refused: Refused| {
        let listed = refused.violations.into_iter();
        listed.map(|violation| mistake(row.line, &violation.field, violation.description)).collect::<Vec<_>>()
    };
    let defect = |why: &str| vec![mistake(row.line, "", format!("a defect: {why}"))];
    let mut metadata = MetadataMap::new();
    metadata.insert("idempotency-key", row.key().parse().map_err(|_| defect("the key is no header"))?);
    let name = CallerName::from_str("batch").map_err(|_| defect("the caller has no name"))?;
    let caller = Caller { name };
    let asked = match row.call.clone() {
        Call::Capture(request) => command::capture(request, &metadata, &caller, |_| true),
        Call::Void(request) => command::void(&request, &metadata, &caller, |_| true),
        Call::Refund(request) => command::refund(request, &metadata, &caller, |_| true),
    };
    asked.map(drop).map_err(wrong)
}

fn mistake(line: u64, field: &str, remedy: impl Into<String>) -> Mistake {
    Mistake { line, field: field.to_owned(), remedy: remedy.into() }
}

fn is_reference(text: &str) -> bool {
    (1..=REFERENCE_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "T12345678.demoCard00000000000001";

    fn read_text(text: &str) -> Result<Vec<Row>, Vec<(u64, String, String)>> {
        let file =
            tempfile::NamedTempFile::new().map_err(|error| vec![(0, String::new(), error.to_string())])?;
        fs::write(file.path(), text).map_err(|error| vec![(0, String::new(), error.to_string())])?;
        read(file.path()).map_err(|wrong| {
            wrong.into_iter().map(|mistake| (mistake.line, mistake.field, mistake.remedy)).collect()
        })
    }

    #[test]
    fn a_spreadsheets_file_and_json_lines_say_the_same() {
        let comma = format!(
            "operation,reference,transaction_id,amount,reason\ncapture,order-1,{CARD},100,\n\
             refund,order-1,{CARD},50,\"came back, broken\"\nVoid,order-2,{CARD},,\n"
        );
        let semicolon = format!("\u{feff}{}", comma.replace(", broken", " broken").replace(',', ";"));
        let lines = format!(
            "{{\"operation\":\"capture\",\"reference\":\"order-1\",\"transaction_id\":\"{CARD}\",\"amount\":100}}\n\n\
             {{\"operation\":\"refund\",\"reference\":\"order-1\",\"transaction_id\":\"{CARD}\",\"amount\":\"50\",\
             \"reason\":\"came back, broken\"}}\n\
             {{\"operation\":\"void\",\"reference\":\"order-2\",\"transaction_id\":\"{CARD}\"}}\n"
        );
        for text in [comma, semicolon, lines] {
            let rows = read_text(&text).unwrap_or_default();
            let told: Vec<_> = rows.iter().map(|row| (row.key(), row.call.amount())).collect();
            assert_eq!(
                told,
                [
                    ("batch-capture-order-1".to_owned(), Some(100)),
                    ("batch-refund-order-1".to_owned(), Some(50)),
                    ("batch-void-order-2".to_owned(), None),
                ],
                "{text}"
            );
            assert!(
                matches!(&rows[0].call, Call::Capture(request) if request.reference == "order-1"),
                "{rows:?}"
            );
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_its_remedy() {
        let text = format!(
            "operation,reference,transaction_id,amount,colour,items\n\
             capture,a,{CARD},299.90,,\ncapture,b,nonsense,0,,\nsend,c,{CARD},1,,\ncapture,,{CARD},1,,\n\
             capture,d,{CARD},1,red,\nvoid,e,{CARD},1,,\ncapture,f,{CARD},1,,x\ncapture,g,{CARD},1,,\n\
             capture,g,{CARD},1,,\ncapture,h\n"
        );
        let wrong = read_text(&text).err().unwrap_or_default();
        let told: Vec<_> = wrong.iter().map(|(line, field, _)| (*line, field.as_str())).collect();
        assert_eq!(
            told,
            [
                (2, "amount"),
                (3, "amount"),
                (3, "transaction_id"),
                (4, "operation"),
                (5, "reference"),
                (6, "colour"),
                (7, "amount"),
                (8, "items"),
                (10, "reference"),
                (11, ""),
            ],
            "{wrong:#?}"
        );
        assert!(wrong[0].2.contains("29990"), "{wrong:#?}");
        assert!(wrong[8].2.contains("line 9"), "{wrong:#?}");
        for (text, remedy) in [("", "no rows"), ("a,b\n1,2\n", "headings"), ("{\"a\"", "one JSON object")] {
            let wrong = read_text(text).err().unwrap_or_default();
            assert!(wrong.iter().any(|(_, _, told)| told.contains(remedy)), "{text}: {wrong:?}");
        }
    }
}
