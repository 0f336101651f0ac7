//! Names that come again and again, by numbers: owners, and what events share, with the columns and the JSON of each.

use pyo3::prelude::*;
use std::collections::HashMap;

use crate::event::{Data, Event};
use crate::rows;

const MOST_OWNERS: usize = 200_000;
const MOST_SHARED: usize = 50_000;

struct Owner {
    columns: Vec<u8>,
    json: String,
}

struct Shared {
    columns: Box<[u8]>,
    kind: u32,
    provider: u32,
}

/// Texts by numbers, each once.
#[derive(Default)]
struct Numbered {
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Numbered {
    fn number(&mut self, text: String) -> u32 {
        if let Some(&number) = self.numbers.get(text.as_str()) {
            return number;
        }
        let (number, text) = (self.texts.len() as u32, text.into_boxed_str());
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        number
    }
}

pub struct Names {
    /// `(subject, api_key_id, api_key_hash) → Owner or None`
    owner_of: Py<PyAny>,
    owners: Vec<Owner>,
    by_name: HashMap<Box<[u8]>, u32>,
    shared: Vec<Shared>,
    by_columns: HashMap<Box<[u8]>, u32>,
    /// What of a kind of use is announced, as members of an object, each behind its comma.
    kinds: Numbered,
    providers: Numbered,
    scratch: Vec<u8>,
}

impl Names {
    pub fn new(owner_of: Py<PyAny>) -> Self {
        Names {
            owner_of,
            owners: Vec::new(),
            by_name: HashMap::new(),
            shared: Vec::new(),
            by_columns: HashMap::new(),
            kinds: Numbered::default(),
            providers: Numbered::default(),
            scratch: Vec::with_capacity(256),
        }
    }

    /// Forget everything if it is much. Numbers are of no worth afterwards.
    pub fn tidy(&mut self) {
        if self.owners.len() > MOST_OWNERS {
            self.owners.clear();
            self.by_name.clear();
        }
        if self.shared.len() > MOST_SHARED {
            self.shared.clear();
            self.by_columns.clear();
            self.kinds = Numbered::default();
            self.providers = Numbered::default();
        }
    }

    /// Return the number of who used it, if somebody knows. Who is known once, stays.
    pub fn owner_number(&mut self, py: Python, event: &Event) -> PyResult<Option<u32>> {
        let data = &event.data;
        let name = (event.subject.as_deref(), data.api_key_id.as_deref(), data.api_key_hash.as_deref());
        self.scratch.clear();
        for part in [name.0, name.1, name.2] {
            rows::put_text(&mut self.scratch, part);
        }
        if let Some(&number) = self.by_name.get(self.scratch.as_slice()) {
            return Ok(Some(number));
        }
        let owner = self.owner_of.call1(py, (name,))?;
        if owner.is_none(py) {
            return Ok(None);
        }
        let columns = owner.getattr(py, "columns")?.extract::<Vec<u8>>(py)?;
        let mut json = format!("\"subscription_id\":\"{}\"", owner.getattr(py, "subscription_id")?.bind(py).str()?);
        let key = owner.getattr(py, "api_key_id")?;
        if !key.is_none(py) {
            json += &format!(",\"api_key_id\":\"{}\"", key.bind(py).str()?);
        }
        let number = self.owners.len() as u32;
        self.owners.push(Owner { columns, json });
        self.by_name.insert(self.scratch.as_slice().into(), number);
        Ok(Some(number))
    }

    /// Return the number of what an event shares with others.
    pub fn shared_number(&mut self, data: &Data) -> u32 {
        self.scratch.clear();
        rows::put_shared(&mut self.scratch, data);
        let columns = self.scratch.len();
        rows::put_text(&mut self.scratch, data.app_id.as_deref()); // is announced with them, and sent with other texts
        if let Some(&number) = self.by_columns.get(self.scratch.as_slice()) {
            return number;
        }
        let provider = data.provider.as_deref().unwrap_or("");
        let (kind, provider) = (self.kinds.number(kind_of(data)), self.providers.number(member("provider", provider)));
        let number = self.shared.len() as u32;
        self.by_columns.insert(self.scratch.as_slice().into(), number);
        let columns = self.scratch[..columns].into();
        self.shared.push(Shared { columns, kind, provider });
        number
    }

    pub fn owner_columns(&self, owner: u32) -> &[u8] {
        &self.owners[owner as usize].columns
    }

    pub fn owner_json(&self, owner: u32) -> &str {
        &self.owners[owner as usize].json
    }

    pub fn shared_columns(&self, shared: u32) -> &[u8] {
        &self.shared[shared as usize].columns
    }

    pub fn kind(&self, shared: u32) -> u32 {
        self.shared[shared as usize].kind
    }

    pub fn kind_json(&self, kind: u32) -> &str {
        &self.kinds.texts[kind as usize]
    }

    pub fn provider(&self, shared: u32) -> u32 {
        self.shared[shared as usize].provider
    }

    /// Return a provider as the first member of an object; None for the one without a name.
    pub fn provider_json(&self, provider: u32) -> Option<&str> {
        self.providers.texts[provider as usize].strip_prefix(',')
    }
}

/// Return what is announced of an event's kind. What is not said is announced as nothing, and nothing is left out.
fn kind_of(data: &Data) -> String {
    let power_level = rows::power_level(data);
    [
        member("model_id", data.model.as_deref().unwrap_or("")),
        member("tool_name", data.tool_name.as_deref().unwrap_or("")),
        member("provider", data.provider.as_deref().unwrap_or("")),
        member("feature_type", data.feature_type.as_deref().unwrap_or("")),
        if power_level == "balanced" { String::new() } else { member("power_level", power_level) },
        if data.byok { ",\"byok\":true".to_owned() } else { String::new() },
        member("app_id", data.app_id.as_deref().unwrap_or("")),
    ]
    .concat()
}

fn member(name: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!(",\"{name}\":{}", serde_json::Value::from(text))
}
