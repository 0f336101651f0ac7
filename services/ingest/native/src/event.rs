//! What of JSON is understood here: ordinary usage events. Anything else is not an error, but somebody else's to look at.
//!
//! The names and limits are those of shared/contracts.py.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::fmt;

use crate::metadata::Metadata;

const MAX_COUNT: u64 = (1 << 53) - 1;
const MAX_STRING: usize = 512;

/// A text: of at most so many bytes, which is stricter than characters, and without NUL, which Postgres does not store.
pub type Text<'a> = Option<Cow<'a, str>>;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event<'a> {
    #[serde(borrow)]
    pub specversion: &'a str,
    #[serde(borrow, deserialize_with = "name")]
    pub id: Cow<'a, str>,
    #[serde(borrow, deserialize_with = "name")]
    pub source: Cow<'a, str>,
    #[serde(borrow)]
    pub r#type: &'a str,
    #[serde(borrow)]
    pub time: &'a str,
    #[serde(borrow)]
    pub data: Data<'a>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub subject: Text<'a>,
    /// Known, and of no consequence: what else CloudEvents defines.
    #[serde(borrow, default, rename = "datacontenttype")]
    pub _datacontenttype: Option<&'a str>,
    #[serde(borrow, default, rename = "dataschema")]
    pub _dataschema: Option<&'a str>,
    #[serde(borrow, default, rename = "traceparent")]
    pub _traceparent: Option<&'a str>,
    #[serde(borrow, default, rename = "tracestate")]
    pub _tracestate: Option<&'a str>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data<'a> {
    #[serde(borrow, default, deserialize_with = "text")]
    pub api_key_id: Text<'a>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub api_key_hash: Text<'a>,
    #[serde(borrow, default, deserialize_with = "optional_name")]
    pub model: Text<'a>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub provider: Text<'a>,
    #[serde(default, deserialize_with = "count")]
    pub request_tokens: u64,
    #[serde(default, deserialize_with = "count")]
    pub response_tokens: u64,
    #[serde(default, deserialize_with = "count")]
    pub cached_tokens: u64,
    #[serde(default)]
    pub latency_ms: Option<u32>,
    #[serde(default = "ok")]
    pub status_code: u16,
    #[serde(borrow, default, deserialize_with = "text")]
    pub error_message: Text<'a>,
    #[serde(borrow, default, deserialize_with = "optional_name")]
    pub power_level: Text<'a>,
    #[serde(default)]
    pub byok: bool,
    #[serde(borrow, default, deserialize_with = "text")]
    pub feature_type: Text<'a>,
    #[serde(borrow, default, deserialize_with = "optional_name")]
    pub tool_name: Text<'a>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub library_id: Text<'a>,
    #[serde(default, deserialize_with = "optional_count")]
    pub tokens_returned: Option<u64>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub reservation_id: Text<'a>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub app_id: Text<'a>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub session_id: Text<'a>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub end_user: Text<'a>,
    #[serde(default)]
    pub metadata: Option<Metadata>,
}

fn ok() -> u16 {
    200
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a text, or null")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        if text.len() > MAX_STRING {
            return Err(E::custom("long"));
        }
        Ok(Some(Cow::Borrowed(text))) // without an escape there is no NUL: JSON wants one
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.len() > MAX_STRING || text.contains('\0') {
            return Err(E::custom("long, or NUL"));
        }
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
        inner.deserialize_str(self)
    }
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Text<'de>, D::Error> {
    from.deserialize_option(TextVisitor)
}

fn optional_name<'de, D: Deserializer<'de>>(from: D) -> Result<Text<'de>, D::Error> {
    match text(from)? {
        Some(found) if found.is_empty() => Err(D::Error::custom("empty")),
        found => Ok(found),
    }
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<Cow<'de, str>, D::Error> {
    optional_name(from)?.ok_or_else(|| D::Error::custom("null"))
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let found = u64::deserialize(from)?;
    if found > MAX_COUNT {
        return Err(D::Error::custom("large"));
    }
    Ok(found)
}

fn optional_count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    match Option::<u64>::deserialize(from)? {
        Some(found) if found > MAX_COUNT => Err(D::Error::custom("large")),
        found => Ok(found),
    }
}
