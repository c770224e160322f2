//! Some fields of a JSON object; the others are passed over.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Unexpected, Visitor};

/// Which fields are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// Holds the text.
    pub text: String,
    /// Holds the name of a document: its URL or an id. Documents without it have none.
    pub name: Option<String>,
}

/// The fields of one record. The strings are used again for the next.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) text: String,
    pub(super) name: String,
}

impl Record {
    /// Reads one record, or says what is wrong with it.
    pub(super) fn read(&mut self, line: &str, fields: &Fields) -> Result<(), String> {
        self.text.clear();
        self.name.clear();
        let mut reader = serde_json::Deserializer::from_str(line);
        let wanted = Wanted { fields, record: self };
        // serde_json counts lines, of which there is one here.
        let without_line =
            |error: serde_json::Error| error.to_string().replace(" at line 1 column ", " at byte ");
        let has_text = wanted.deserialize(&mut reader).map_err(without_line)?;
        reader.end().map_err(without_line)?;
        if has_text { Ok(()) } else { Err(format!("no field {:?}", fields.text)) }
    }
}

struct Wanted<'a> {
    fields: &'a Fields,
    record: &'a mut Record,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut has_text = false;
        while let Some(field) = map.next_key_seed(Which(self.fields))? {
            match field {
                Field::Text if has_text => {
                    return Err(A::Error::custom(format!("field {:?} is there twice", self.fields.text)));
                }
                Field::Text => {
                    has_text = map.next_value_seed(Copied { to: &mut self.record.text, is_name: false })?;
                    if !has_text {
                        return Err(A::Error::custom(format!("{:?} is null", self.fields.text)));
                    }
                }
                Field::Name => {
                    map.next_value_seed(Copied { to: &mut self.record.name, is_name: true })?;
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(has_text)
    }
}

enum Field {
    Text,
    Name,
    Other,
}

struct Which<'a>(&'a Fields);

impl<'de> DeserializeSeed<'de> for Which<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Which<'_> {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(if name == self.0.text {
            Field::Text
        } else if self.0.name.as_deref() == Some(name) {
            Field::Name
        } else {
            Field::Other
        })
    }
}

/// A string or null, copied to where it is wanted; whether it is a string. A name may be a number.
struct Copied<'a> {
    to: &'a mut String,
    is_name: bool,
}

impl<'de> DeserializeSeed<'de> for Copied<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Copied<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E>(self, value: &str) -> Result<bool, E> {
        self.to.push_str(value);
        Ok(true)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<bool, E> {
        if !self.is_name {
            return Err(E::invalid_type(Unexpected::Unsigned(value), &self));
        }
        self.to.push_str(&value.to_string());
        Ok(true)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<(String, String), String> {
        let fields = Fields { text: "text".into(), name: Some("url".into()) };
        let mut record = Record::default();
        record.read(line, &fields).map(|()| (record.text, record.name))
    }

    #[test]
    fn fields_are_found_in_any_order_among_others() {
        let line = r#" {"id": [1, {"text": 2}], "url": "u", "more": null, "text": "a\n\u00e9\ud83d\ude00"} "#;
        assert_eq!(read(line).unwrap(), ("a\né😀".to_owned(), "u".to_owned()));
        assert_eq!(read(r#"{"text": "", "url": null}"#).unwrap(), (String::new(), String::new()));
        assert_eq!(read(r#"{"text": "", "url": 17}"#).unwrap(), (String::new(), "17".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (line, part) in [
            (r#"{"other": 1}"#, "no field \"text\""),
            (r#"{"text": 1}"#, "expected a string at byte 10"),
            (r#"{"text": null}"#, "\"text\" is null"),
            (r#"{"text": "a", "text": "b"}"#, "twice"),
            (r#"{"text": "\ud800 and more"}"#, "hex escape"),
            (r#"{"text": "a"} x"#, "trailing characters"),
            (r#"["text"]"#, "expected a JSON object"),
            (r#"{"text": "a"#, "EOF"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&format!("{{\"x\": {}", "[".repeat(100_000))).is_err());
    }
}
