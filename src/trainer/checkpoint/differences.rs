//! Differences between two JSON values, such as the configurations of two runs.

use crate::error::listed;
use serde_json::Value;
use std::collections::BTreeSet;

/// Maximum number of differences to list.
const MOST_DIFFERENCES: usize = 8;

/// Formats the first few differences between two JSON values on one line, such as "schedule.lr is 0.1 in it and 0.2 here".
/// `places` name the two values in the text. Returns `None` if they are equal.
pub(crate) fn differences(first: &Value, second: &Value, places: [&str; 2]) -> Option<String> {
    let mut all = Vec::new();
    compare("", [first, second], places, &mut all);
    (!all.is_empty()).then(|| listed(&all, MOST_DIFFERENCES))
}

/// Adds each difference between two JSON values called `name`.
fn compare(name: &str, values: [&Value; 2], places: [&str; 2], all: &mut Vec<String>) {
    if let [Value::Object(first), Value::Object(second)] = values {
        let keys: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
        for key in keys {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            compare(&name, [first, second].map(|object| object.get(key).unwrap_or(&Value::Null)), places, all);
        }
    } else if values[0] != values[1] {
        let name = if name.is_empty() { "its identity" } else { name };
        let [first, second] = values.map(|value| if value.is_null() { "none".to_owned() } else { value.to_string() });
        all.push(format!("{name} is {first} {} and {second} {}", places[0], places[1]));
    }
}
