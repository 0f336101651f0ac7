//! The sweep of services/ingest/sweeping.py for ordinary usage events, without an object of Python for each.
//!
//! What is not ordinary is handed back, one record at a time and in its place, and goes the way that is written in Python:
//! corrections, what is refused, unknown owners, suspected duplicates, and whatever JSON, time or metadata might be read or written in
//! more than one way. So this may be narrow, but never differ: `tests/native/test_compiled.py` holds it to that.

mod event;
mod instant;
mod metadata;
mod names;
mod records;
mod rows;
mod sums;
mod window;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PySequence};
use std::collections::HashSet;

use event::Event;
use names::Names;
use records::Record;
use rows::{Key, IDENTITY_BYTES};
use sums::{Counting, Sums};
use window::{Keys, Window};

/// What a record may be: `services.ingest.acceptance.Limits`.
struct Limits {
    record_bytes: usize,
    metadata_bytes: usize,
    metadata_keys: usize,
}

/// An event that is ready to become a row.
struct Ready<'a> {
    event: Event<'a>,
    key: Key,
    at: i64,
    owner: u32,
    reservation: Option<Key>,
}

/// Goes over batches of one worker.
#[pyclass(module = "tallystick_native")]
struct Sweeper {
    limits: Limits,
    counting: Counting,
    names: Names,
}

/// What a sweep packed; services/ingest/compiled.py makes a `Packed` of it.
#[pyclass(module = "tallystick_native", get_all)]
struct Packed {
    rows: Py<PyBytes>,
    identities: Py<PyBytes>,
    minutes: Vec<i64>,
    /// Objects of JSON, with commas between them: `UsageDelta`, `ProviderDelta`.
    uses: Py<PyBytes>,
    providers: Py<PyBytes>,
    events: u64,
    last: Option<i64>,
}

#[pymethods]
impl Sweeper {
    /// `owner_of((subject, api_key_id, api_key_hash))` returns an Owner, or None; it is asked once for each.
    #[new]
    fn new(
        owner_of: Py<PyAny>,
        record_bytes: usize,
        metadata_bytes: usize,
        metadata_keys: usize,
        latency_buckets_ms: Vec<u32>,
        most_reservations: usize,
    ) -> Self {
        Sweeper {
            limits: Limits { record_bytes, metadata_bytes, metadata_keys },
            counting: Counting { latency_buckets_ms, most_reservations },
            names: Names::new(owner_of),
        }
    }

    /// Pack what is ordinary of `records`, whose ids join `keys`. Times are microseconds since 2000.
    ///
    /// `other(record)` is called in its turn for each record that is not; it may add to `keys`.
    #[allow(clippy::too_many_arguments)]
    fn sweep(
        &mut self,
        py: Python,
        records: &Bound<PySequence>,
        batch_id: Key,
        generation: i16,
        earliest: i64,
        latest: i64,
        keys: &Bound<Keys>,
        window: &Bound<Window>,
        known: HashSet<Key>,
        other: &Bound<PyAny>,
    ) -> PyResult<Packed> {
        self.names.tidy();
        let count = records.len()?;
        let mut packed = Vec::with_capacity(count * 512 + 32);
        let mut identities: Vec<[u8; IDENTITY_BYTES]> = Vec::with_capacity(count);
        let mut sums = Sums::new(self.counting.clone());
        packed.extend_from_slice(rows::BEGIN);
        for record in records.try_iter()? {
            let record = record?;
            let value;
            let bytes: &[u8] = if let Ok(record) = record.cast::<Record>() {
                let record = record.get();
                if record.has_attributes(py)? {
                    &[]
                } else {
                    record.bytes(py)
                }
            } else {
                value = record.getattr("value")?;
                match value.cast::<PyBytes>() {
                    Ok(bytes) if !has_attributes(&record)? => bytes.as_bytes(),
                    _ => &[],
                }
            };
            let found = self.ready(py, bytes, earliest, latest)?.filter(|one| {
                let suspected = keys.borrow().ids.contains(&one.key) || window.borrow().has(&one.key);
                !suspected && !known.contains(&one.key)
            });
            let Some(ready) = found else {
                other.call1((record,))?;
                continue;
            };
            keys.borrow_mut().ids.insert(ready.key);
            let data = &ready.event.data;
            let shared = self.names.shared_number(data);
            let (owner_columns, shared_columns) =
                (self.names.owner_columns(ready.owner), self.names.shared_columns(shared));
            let identity = rows::put_row(
                &mut packed,
                &ready.key,
                ready.at,
                &ready.event,
                owner_columns,
                &batch_id,
                shared_columns,
            );
            identities.push(packed[identity..identity + IDENTITY_BYTES].try_into()?);
            sums.add(&self.names, ready.owner, shared, ready.at, data, ready.reservation);
        }
        packed.extend_from_slice(rows::END);
        Ok(Packed {
            rows: PyBytes::new(py, &packed).unbind(),
            identities: PyBytes::new(py, &rows::identity_rows(identities, generation)).unbind(),
            minutes: sums.minutes(),
            uses: PyBytes::new(py, sums.uses(&self.names).as_bytes()).unbind(),
            providers: PyBytes::new(py, sums.providers(&self.names).as_bytes()).unbind(),
            events: sums.events,
            last: sums.last(),
        })
    }
}

impl Sweeper {
    /// Return the event in a value if it is an ordinary one within the limits, whose owner is known. Compare `acceptance.accept`.
    fn ready<'a>(&mut self, py: Python, value: &'a [u8], earliest: i64, latest: i64) -> PyResult<Option<Ready<'a>>> {
        if value.len() > self.limits.record_bytes {
            return Ok(None);
        }
        let Some(event) = std::str::from_utf8(value).ok().and_then(|text| serde_json::from_str::<Event>(text).ok())
        else {
            return Ok(None);
        };
        let data = &event.data;
        let Some(at) = instant::microseconds(event.time) else { return Ok(None) };
        let named = |text: &event::Text| text.as_deref().is_some_and(|text| !text.is_empty());
        let short = data.metadata.as_ref().is_none_or(|metadata| {
            metadata.keys <= self.limits.metadata_keys && value.len() <= self.limits.metadata_bytes
        });
        let usual = event.specversion == "1.0"
            && event.r#type == "tallystick.usage.v1"
            && (earliest..=latest).contains(&at)
            && data.cached_tokens <= data.request_tokens
            && (data.model.is_some() || data.tool_name.is_some())
            && (named(&event.subject) || named(&data.api_key_id) || named(&data.api_key_hash))
            && (100..=599).contains(&data.status_code)
            && data.latency_ms.is_none_or(|latency| latency < 1 << 31)
            && short;
        if !usual {
            return Ok(None);
        }
        let reservation = match data.reservation_id.as_deref() {
            None => None,
            Some(text) => match rows::id_of(text) {
                None => return Ok(None),
                id => id,
            },
        };
        let Some(owner) = self.names.owner_number(py, &event)? else { return Ok(None) };
        let key = rows::event_key(&event.source, &event.id);
        Ok(Some(Ready { event, key, at, owner, reservation }))
    }
}

/// Tell whether an event's attributes may be in the headers of its record.
fn has_attributes(record: &Bound<PyAny>) -> PyResult<bool> {
    let headers = record.getattr("headers")?;
    if headers.len()? == 0 {
        return Ok(false);
    }
    for header in headers.try_iter()? {
        let name = header?.get_item(0)?.extract::<String>();
        if name.map_or(true, |name| name.starts_with("ce_")) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[pymodule]
fn tallystick_native(module: &Bound<PyModule>) -> PyResult<()> {
    module.add_class::<Sweeper>()?;
    module.add_class::<Packed>()?;
    module.add_class::<Window>()?;
    module.add_class::<Keys>()?;
    module.add_class::<Record>()?;
    module.add_function(wrap_pyfunction!(records::records, module)?)?;
    module.add_function(wrap_pyfunction!(records::checksum, module)?)
}
