//! How files and `--set` change a configuration: as TOML tables laid over the one of a preset,
//! which holds every key there is.

pub use crate::error::nearest;
use crate::error::{Error, Result};
use toml::{Table, Value};

/// What TOML says of a text, on one line; of a value that comes from no text, with its key.
pub(super) fn one_line(error: &toml::de::Error) -> String {
    let said = match error.span() {
        Some(_) => error.message().to_string(),
        None => error.to_string(),
    };
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every key with its value, `section.key`.
pub(super) fn flatten(table: &Table, prefix: &str, out: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            Value::Table(inner) => flatten(inner, &format!("{path}."), out),
            other => out.push((path, other.to_string())),
        }
    }
}

/// Lays `from` over `onto`, which holds every key there is.
pub(super) fn overlay(onto: &mut Table, from: &Table, prefix: &str) -> Result<()> {
    let whole = onto.clone();
    for (key, value) in from {
        let path = format!("{prefix}{key}");
        match (onto.get_mut(key), value) {
            (None, _) => return Err(unknown_within(&whole, prefix, key)),
            (Some(Value::Table(inner)), Value::Table(v)) => {
                overlay(inner, v, &format!("{path}."))?;
            }
            (Some(Value::Table(inner)), v) => fill(inner, v, &path)?,
            (Some(slot), v) => *slot = fit(slot, v.clone(), &path)?,
        }
    }
    Ok(())
}

fn unknown_within(table: &Table, prefix: &str, key: &str) -> Error {
    let mut keys = Vec::new();
    flatten(table, prefix, &mut keys);
    let path = format!("{prefix}{key}");
    let close = nearest(&path, keys.iter().map(|(k, _)| k.as_str()));
    Error::Config(format!("unknown key '{path}', did you mean '{close}'?"))
}

/// `model.dropout = 0`: one value for every key of a section of numbers.
fn fill(section: &mut Table, value: &Value, path: &str) -> Result<()> {
    let numbers = section.values().all(|v| v.is_float() || v.is_integer());
    if !numbers || !(value.is_float() || value.is_integer()) {
        return Err(Error::Config(format!("{path}: a section, want {path}.key=value")));
    }
    for slot in section.iter_mut().map(|(_, v)| v) {
        *slot = fit(slot, value.clone(), path)?;
    }
    Ok(())
}

/// Settings that are a switch or a word, and say themselves which words there are.
const SWITCH_OR_WORD: [&str; 1] = ["train.normalize"];

/// The value in the slot's type: integers serve as floats.
fn fit(slot: &Value, value: Value, path: &str) -> Result<Value> {
    match (slot, value) {
        (_, value @ (Value::Boolean(_) | Value::String(_))) if SWITCH_OR_WORD.contains(&path) => {
            Ok(value)
        }
        (Value::Float(_), Value::Integer(i)) => Ok(Value::Float(i as f64)),
        (slot, value) if slot.same_type(&value) => Ok(value),
        (slot, value) => Err(Error::Config(format!(
            "{path}: want {}, got {value}",
            match slot.type_str() {
                "float" => "a number",
                "integer" => "a whole number",
                "boolean" => "true or false",
                other => other,
            }
        ))),
    }
}

/// What a setting's text means: a bare word is a string; anything else reads as TOML.
pub fn value_of(text: &str) -> Value {
    let table = format!("v = {text}").parse::<Table>().ok();
    table.and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(text.into()))
}

/// Sets `section.key` to what `text` says.
pub(super) fn set(all: &mut Table, key: &str, text: &str) -> Result<()> {
    let value = value_of(text);
    let whole = all.clone();
    let mut at: &mut Table = all;
    let parts: Vec<&str> = key.split('.').collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        match at.get_mut(*part) {
            Some(Value::Table(inner)) if last => return fill(inner, &value, key),
            Some(Value::Table(inner)) => at = inner,
            Some(slot) if last => {
                *slot = fit(slot, value, key)?;
                return Ok(());
            }
            _ => return Err(unknown_within(&whole, "", key)),
        }
    }
    Err(unknown_within(&whole, "", key))
}
