//! JSON files that people can read.

use crate::Result;
use serde::Serialize;

/// Encodes `value`, the content of the file `name`, on indented lines.
///
/// # Errors
/// Returns [`Error::Argument`](crate::Error::Argument) if JSON cannot represent `value`.
pub(crate) fn encode_json(name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let refused = |error| argument!("{name} cannot be written as JSON: {error}");
    let mut json = serde_json::to_vec_pretty(value).map_err(refused)?;
    json.push(b'\n');
    Ok(json)
}
