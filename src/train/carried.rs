//! What a model's representations carry of the factors that made the data, where those are known.

use super::probe::probe;
use super::session::Session;
use crate::data::{Dataset, SplitName};
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};

/// The ridge penalty of the probes, on standardised inputs.
const LAMBDA: f64 = 1.0;

/// The generator's factors; others that a data set may have come after them.
const FIRST: [&str; 4] = ["shared", "text", "audio", "vision"];

/// R² of a linear probe by representation and factor: 1 for all of it, 0 for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Carried {
    /// A representation's name ("text encoder", "fused head"), then R² by factor.
    pub lines: Vec<(String, Vec<(String, f64)>)>,
}

impl Carried {
    /// What `representation` carries of `factor`.
    pub fn get(&self, representation: &str, factor: &str) -> Option<f64> {
        let (_, values) = self.lines.iter().find(|(n, _)| n == representation)?;
        values.iter().find(|(f, _)| f == factor).map(|(_, v)| *v)
    }

    /// The mean of several: of the representations and factors of the first, each over those that
    /// have it.
    pub fn mean(all: &[&Carried]) -> Carried {
        let Some(first) = all.first() else { return Carried::default() };
        let mean = |name: &str, factor: &str| {
            let values: Vec<f64> = all.iter().filter_map(|c| c.get(name, factor)).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let line = |(name, values): &(String, Vec<(String, f64)>)| {
            let values = values.iter().map(|(f, _)| (f.clone(), mean(name, f)));
            (name.clone(), values.collect())
        };
        Carried { lines: first.lines.iter().map(line).collect() }
    }

    /// As an object of objects.
    pub fn to_json(&self) -> Value {
        let lines = self.lines.iter().map(|(name, values)| {
            let by: Map<_, _> = values.iter().map(|(f, v)| (f.clone(), json!(v))).collect();
            (name.clone(), Value::Object(by))
        });
        Value::Object(lines.collect())
    }

    /// From [`to_json`](Self::to_json)'s object; `None` where it is another kind of value. Entries
    /// that are no numbers are left out.
    pub fn from_json(value: &Value) -> Option<Carried> {
        let lines = value.as_object()?.iter().map(|(name, by)| {
            let by = by.as_object()?;
            let values = by.iter().filter_map(|(f, v)| Some((f.clone(), v.as_f64()?)));
            Some((name.clone(), values.collect()))
        });
        Some(Carried { lines: lines.collect::<Option<_>>()? })
    }
}

impl Serialize for Carried {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.to_json().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Carried {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        Carried::from_json(&value).ok_or_else(|| de::Error::custom("want an object of objects"))
    }
}

/// Probes every representation of a session for every factor that its data knows: fitted on train,
/// scored on test. `None` where the data knows none, as real data does not.
///
/// # Errors
/// Those of [`Session::represent`] and [`probe`].
pub fn carried(session: &mut Session) -> Result<Option<Carried>> {
    let data = session.data().clone();
    let factors = factors(&data);
    if factors.is_empty() {
        return Ok(None);
    }
    let train = session.represent(SplitName::Train)?;
    let test = session.represent(SplitName::Test)?;
    let lines = train.iter().zip(&test).map(|((name, size, x), (_, _, x_test))| {
        let values = factors.iter().map(|factor| {
            let (y, dim) = truth(&data, SplitName::Train, factor)?;
            let (y_test, _) = truth(&data, SplitName::Test, factor)?;
            Ok((factor.clone(), probe(x, *size, &y, dim, x_test, &y_test, LAMBDA)?))
        });
        Ok((shown_name(name), values.collect::<Result<_>>()?))
    });
    Ok(Some(Carried { lines: lines.collect::<Result<_>>()? }))
}

/// The factors that both splits have.
fn factors(data: &Dataset) -> Vec<String> {
    let names = |split| data.split(split).map(|s| s.factor_names()).unwrap_or_default();
    let test = names(SplitName::Test);
    let both: Vec<&str> =
        names(SplitName::Train).into_iter().filter(|n| test.contains(n)).collect();
    let first = FIRST.into_iter().filter(|n| both.contains(n));
    let others = both.iter().copied().filter(|n| !FIRST.contains(n));
    first.chain(others).map(String::from).collect()
}

fn truth(data: &Dataset, split: SplitName, factor: &str) -> Result<(Vec<f32>, usize)> {
    let found = data.split(split).and_then(|s| s.factor(factor));
    found.ok_or_else(|| Error::data(data.path(), format!("no '{split}.factor_{factor}'")))
}

/// What the name of a score stands for: M for the fused head, T, A and V for those of modalities, any
/// other for itself.
pub fn head_name(score: &str) -> String {
    match score {
        "T" => "text",
        "A" => "audio",
        "V" => "vision",
        "M" => "fused",
        other => other,
    }
    .into()
}

/// The session's "encoded audio" and "feature A" in words.
fn shown_name(name: &str) -> String {
    match (name.strip_prefix("encoded "), name.strip_prefix("feature ")) {
        (Some(sense), _) => format!("{sense} encoder"),
        (_, Some(letter)) => {
            let head = head_name(letter);
            format!("{head} head")
        }
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        assert_eq!(shown_name("encoded audio"), "audio encoder");
        assert_eq!(shown_name("feature M"), "fused head");
        assert_eq!(shown_name("feature V"), "vision head");
    }

    #[test]
    fn means_are_of_each_cell() {
        let one = |v: f64| Carried { lines: vec![("a".into(), vec![("audio".into(), v)])] };
        let mean = Carried::mean(&[&one(0.0), &one(1.0)]);
        assert_eq!((mean.get("a", "audio"), mean.get("b", "audio")), (Some(0.5), None));
        // What only some have is the mean of those.
        let mean = Carried::mean(&[&one(0.5), &Carried::default()]);
        assert_eq!(mean.get("a", "audio"), Some(0.5));
    }

    #[test]
    fn json_is_read_back() {
        let one = |v: f64| vec![("shared".to_string(), v), ("text".to_string(), -v)];
        let all = Carried { lines: vec![("b".into(), one(0.25)), ("a".into(), one(0.5))] };
        assert_eq!(Carried::from_json(&all.to_json()).unwrap(), all);
        assert!(Carried::from_json(&Value::Null).is_none());
    }
}
