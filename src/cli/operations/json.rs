//! Messages as JSON, by the contract's own descriptors: names as in the proto
//! files, enum values by name, int64 as text, times in RFC 3339, as protobuf's
//! JSON has it. Every field is there, also where it is empty.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, ReflectMessage as _, Value as Field};
use serde_json::{Map, Value, json};

use crate::cli::{EXIT_UNAVAILABLE, Failed};
use crate::grpc::pb::DESCRIPTORS;

/// The message of that name of the contract.
pub(super) fn value(name: &str, message: &impl Message) -> Result<Value, Failed> {
    let defect = |why: &dyn std::fmt::Display| Failed::new(format!("a defect: {why}"), EXIT_UNAVAILABLE);
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| defect(&error))?;
    let name = format!("payops.v1.{name}");
    let descriptor = pool.get_message_by_name(&name).ok_or_else(|| defect(&format!("no message {name}")))?;
    let bytes = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(|error| defect(&error))?;
    Ok(object(&message))
}

fn object(message: &DynamicMessage) -> Value {
    if message.descriptor().full_name() == "google.protobuf.Timestamp" {
        return time(message);
    }
    let mut object = Map::new();
    for field in message.descriptor().fields() {
        let absent = field.supports_presence() && !message.has_field(&field);
        let value = if absent { Value::Null } else { self::field(&message.get_field(&field), &field.kind()) };
        object.insert(field.name().to_owned(), value);
    }
    Value::Object(object)
}

fn field(value: &Field, kind: &Kind) -> Value {
    match value {
        Field::Bool(value) => json!(value),
        Field::I32(value) => json!(value),
        Field::U32(value) => json!(value),
        Field::I64(value) => json!(value.to_string()),
        Field::U64(value) => json!(value.to_string()),
        Field::F32(value) => json!(value),
        Field::F64(value) => json!(value),
        Field::String(value) => json!(value),
        Field::Bytes(value) => json!(value.to_vec()),
        Field::EnumNumber(number) => {
            let name = kind.as_enum().and_then(|kind| kind.get_value(*number));
            name.map_or_else(|| json!(number), |value| json!(value.name()))
        }
        Field::Message(message) => object(message),
        Field::List(values) => values.iter().map(|value| field(value, kind)).collect(),
        // The messages that are printed have no maps.
        Field::Map(_) => Value::Null,
    }
}

fn time(message: &DynamicMessage) -> Value {
    let number = |name| message.get_field_by_name(name);
    let seconds = number("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    let nanos = number("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
    jiff::Timestamp::new(seconds, nanos).map_or(Value::Null, |time| json!(time.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb;

    #[test]
    fn names_are_those_of_the_contract_and_nothing_is_left_out() {
        let operation = pb::Operation {
            state: pb::OperationState::InReview.into(),
            amount: 29_990,
            create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
            ..pb::Operation::default()
        };
        let value = value("Operation", &operation).unwrap_or_default();
        assert_eq!(value["state"], "OPERATION_STATE_IN_REVIEW");
        assert_eq!((&value["amount"], &value["attempt"]), (&json!("29990"), &json!(0)));
        assert_eq!(value["create_time"], "1970-01-01T00:00:01.5Z");
        assert_eq!((&value["proof"], &value["note"]), (&Value::Null, &json!("")));
    }

    #[test]
    fn a_value_that_this_program_does_not_know_is_a_number() {
        let operation = pb::Operation { state: 99, ..pb::Operation::default() };
        assert_eq!(value("Operation", &operation).unwrap_or_default()["state"], 99);
    }
}
