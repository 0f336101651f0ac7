//! Metadata as it is stored: compact JSON, of flat objects whose values look the same written by anybody.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::fmt::{self, Write};

/// JSON without blanks, and how many keys it has.
pub struct Metadata {
    pub json: String,
    pub keys: usize,
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a flat object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Metadata, A::Error> {
        let mut json = String::with_capacity(128);
        let mut keys: Vec<&'de str> = Vec::new();
        json.push('{');
        while let Some(key) = entries.next_key::<&'de str>()? {
            if keys.contains(&key) {
                return Err(A::Error::custom("twice")); // the last one counts, in the place of the first
            }
            if !keys.is_empty() {
                json.push(',');
            }
            keys.push(key);
            quoted(&mut json, key);
            json.push(':');
            match entries.next_value::<Scalar<'de>>()? {
                Scalar::Null => json.push_str("null"),
                Scalar::Bool(true) => json.push_str("true"),
                Scalar::Bool(false) => json.push_str("false"),
                Scalar::Unsigned(number) => write!(json, "{number}").map_err(A::Error::custom)?,
                Scalar::Signed(number) => write!(json, "{number}").map_err(A::Error::custom)?,
                Scalar::Float(text) => json.push_str(&text),
                Scalar::Text(text) => quoted(&mut json, text),
            }
        }
        json.push('}');
        Ok(Metadata { json, keys: keys.len() })
    }
}

/// Write what came without an escape, and so needs none.
fn quoted(json: &mut String, text: &str) {
    json.push('"');
    json.push_str(text);
    json.push('"');
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MetadataVisitor)
    }
}

enum Scalar<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(String),
    Text(&'a str),
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a text without escapes, a number, true, false or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E: Error>(self, found: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(found))
    }

    fn visit_u64<E: Error>(self, found: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Unsigned(found))
    }

    fn visit_i64<E: Error>(self, found: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Signed(found))
    }

    /// Between these nobody writes an exponent, and up to 15 digits are the only ones so short that read as the same number.
    fn visit_f64<E: Error>(self, found: f64) -> Result<Self::Value, E> {
        let text = format!("{found:?}");
        let digits = text.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count();
        if ((1e-4..1e15).contains(&found.abs()) && digits <= 15) || found.to_bits() == 0 {
            return Ok(Scalar::Float(text));
        }
        Err(E::custom("written in several ways"))
    }

    fn visit_borrowed_str<E: Error>(self, found: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(found))
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ScalarVisitor)
    }
}
