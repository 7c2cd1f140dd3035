//! Settings in a record that a later version of this library has written: a start without them would be less than was asked for.
#![forbid(unsafe_code)]

use super::super::spec::Spec;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// What a text asks for, without what it says: the bytes of files may be many.
enum Asked {
    /// `null` and `false`.
    Nothing,
    Something,
    Parts(BTreeMap<String, Asked>),
    /// Its lists and parts, and whether it has anything.
    List(Vec<Asked>, bool),
}

impl Asked {
    fn is_nothing(&self) -> bool {
        match self {
            Self::Nothing | Self::List(_, false) => true,
            Self::Parts(parts) => parts.is_empty(),
            Self::Something | Self::List(_, true) => false,
        }
    }

    /// The first that its reader has not taken.
    fn unknown(&self, known: &Value, at: &str) -> Option<String> {
        match (self, known) {
            (Self::Parts(parts), Value::Object(known)) => parts.iter().find_map(|(name, asked)| {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                match known.get(name) {
                    Some(known) => asked.unknown(known, &at),
                    None => (!asked.is_nothing()).then_some(at),
                }
            }),
            (Self::List(all, _), Value::Array(known)) => {
                let known = known.iter().filter(|value| value.is_object() || value.is_array());
                all.iter().zip(known).find_map(|(asked, known)| asked.unknown(known, at))
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Asked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Asked, E> {
        Ok(Asked::Nothing)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Asked, E> {
        Ok(if yes { Asked::Something } else { Asked::Nothing })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Asked, E> {
        Ok(Asked::Something)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Asked, E> {
        Ok(Asked::Something)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Asked, E> {
        Ok(Asked::Something)
    }

    fn visit_str<E>(self, _: &str) -> Result<Asked, E> {
        Ok(Asked::Something)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Asked, A::Error> {
        let (mut all, mut any) = (Vec::new(), false);
        while let Some(asked) = list.next_element()? {
            any = true;
            if let Asked::Parts(_) | Asked::List(..) = asked {
                all.push(asked);
            }
        }
        Ok(Asked::List(all, any))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asked, A::Error> {
        let mut parts = BTreeMap::new();
        while let Some((name, asked)) = map.next_entry()? {
            parts.insert(name, asked);
        }
        Ok(Asked::Parts(parts))
    }
}

#[derive(Deserialize)]
struct Written {
    spec: Asked,
}

/// A setting in a record's text that is not in what was made of it.
pub(super) fn unknown(text: &[u8], spec: &Spec) -> serde_json::Result<Option<String>> {
    let mut spec = spec.clone();
    spec.files.iter_mut().for_each(|file| file.bytes.clear());
    let known = serde_json::to_value(spec)?;
    Ok(serde_json::from_slice::<Written>(text)?.spec.unknown(&known, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_asked_for_and_not_taken_is_found_wherever_it_is() {
        let known = json!({"a": 1, "list": [[1, 2], {"b": 2}, 7, {"b": 3}], "none": null, "map": {"x": "y"}});
        let found = |text: Value| {
            let asked: Asked = serde_json::from_str(&text.to_string()).unwrap();
            asked.unknown(&known, "")
        };
        assert_eq!(found(known.clone()), None);
        assert_eq!(found(json!({"a": {"deep": 1}, "list": 5})), None, "that is for who reads it");
        for nothing in [json!(null), json!(false), json!([]), json!({})] {
            assert_eq!(found(json!({"later": nothing})), None, "{nothing}");
        }
        for something in
            [json!(true), json!(0), json!(-1), json!(0.5), json!(""), json!([0]), json!({"a": 1})]
        {
            assert_eq!(found(json!({"later": something})).as_deref(), Some("later"), "{something}");
        }
        assert_eq!(found(json!({"map": {"x": "", "z": 1}})).as_deref(), Some("map.z"));
        let list = json!({"list": [[1, 2], {"b": 2}, 7, {"b": 3, "c": 4}]});
        assert_eq!(found(list).as_deref(), Some("list.c"));
    }
}
