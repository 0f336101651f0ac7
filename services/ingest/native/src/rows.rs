//! Rows as COPY takes them, in its binary format. The order of the columns is that of services/ingest/packing.py.

use crate::event::{Data, Event};
use sha1::{Digest, Sha1};

pub const BEGIN: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub const END: &[u8] = b"\xff\xff";
const NULL: [u8; 4] = [0xff; 4];

const COLUMNS: i16 = 26;
const IDENTITY_COLUMNS: i16 = 3;
/// An identity in a batch: the id and the time, as columns.
pub const IDENTITY_BYTES: usize = 32;

/// The namespace of shared/ids.py.
const NAMESPACE: [u8; 16] =
    [0xb1, 0xd3, 0xbb, 0x55, 0x6f, 0x6b, 0x5d, 0x3c, 0x9f, 0x0e, 0x6f, 0x3b, 0x1f, 0x7e, 0x5a, 0x10];

pub type Key = [u8; 16];

/// Return the stored id of an event: UUIDv5 of `<length of source in characters>:<source>:<id>`.
pub fn event_key(source: &str, id: &str) -> Key {
    let mut hash = Sha1::new();
    hash.update(NAMESPACE);
    hash.update(source.chars().count().to_string());
    hash.update(b":");
    hash.update(source);
    hash.update(b":");
    hash.update(id);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    key[6] = key[6] & 0x0f | 0x50;
    key[8] = key[8] & 0x3f | 0x80;
    key
}

pub fn put_text(to: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => to.extend_from_slice(&NULL),
        Some(text) => put_bytes(to, text.as_bytes()),
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as i32).to_be_bytes()); // texts have at most 512, metadata less than a record
    to.extend_from_slice(bytes);
}

fn put_bigint(to: &mut Vec<u8>, number: i64) {
    to.extend_from_slice(&8_i32.to_be_bytes());
    to.extend_from_slice(&number.to_be_bytes());
}

/// What events of one kind have in common, as columns.
pub fn put_shared(to: &mut Vec<u8>, data: &Data) {
    put_text(to, data.model.as_deref());
    put_text(to, data.tool_name.as_deref());
    put_text(to, data.provider.as_deref());
    put_text(to, Some(power_level(data)));
    to.extend_from_slice(&[0, 0, 0, 1, u8::from(data.byok)]);
    put_text(to, data.feature_type.as_deref());
}

pub fn power_level<'a>(data: &'a Data) -> &'a str {
    data.power_level.as_deref().unwrap_or("balanced")
}

/// Write the row of an event; return where in it its identity begins.
pub fn put_row(to: &mut Vec<u8>, key: &Key, at: i64, event: &Event, owner: &[u8], batch: &Key, shared: &[u8]) -> usize {
    let data = &event.data;
    to.extend_from_slice(&COLUMNS.to_be_bytes());
    let identity = to.len();
    put_bytes(to, key);
    put_bigint(to, at);
    for tokens in [data.request_tokens, data.response_tokens, data.cached_tokens] {
        put_bigint(to, tokens as i64); // below 2^53
    }
    put_bytes(to, &data.status_code.to_be_bytes());
    match data.latency_ms {
        None => to.extend_from_slice(&NULL),
        Some(latency) => put_bytes(to, &latency.to_be_bytes()),
    }
    to.extend_from_slice(owner);
    put_bytes(to, batch);
    to.extend_from_slice(shared);
    put_text(to, data.error_message.as_deref());
    put_text(to, data.library_id.as_deref());
    put_text(to, data.reservation_id.as_deref());
    match data.tokens_returned {
        None => to.extend_from_slice(&NULL),
        Some(tokens) => put_bigint(to, tokens as i64),
    }
    put_text(to, data.session_id.as_deref());
    put_text(to, data.end_user.as_deref());
    put_text(to, data.app_id.as_deref());
    put_text(to, Some(&event.source));
    put_text(to, Some(&event.id));
    match &data.metadata {
        None => to.extend_from_slice(&NULL),
        Some(metadata) => {
            to.extend_from_slice(&(metadata.json.len() as i32 + 1).to_be_bytes());
            to.push(1); // the version of jsonb
            to.extend_from_slice(metadata.json.as_bytes());
        }
    }
    identity
}

/// Return rows of usage_ids, in the order of the ids: see services/ingest/packing.py.
pub fn identity_rows(mut identities: Vec<[u8; IDENTITY_BYTES]>, generation: i16) -> Vec<u8> {
    identities.sort_unstable();
    let mut rows = Vec::with_capacity(BEGIN.len() + identities.len() * (IDENTITY_BYTES + 8) + END.len());
    rows.extend_from_slice(BEGIN);
    for identity in &identities {
        rows.extend_from_slice(&IDENTITY_COLUMNS.to_be_bytes());
        rows.extend_from_slice(identity);
        put_bytes(&mut rows, &generation.to_be_bytes());
    }
    rows.extend_from_slice(END);
    rows
}

/// Return the 16 bytes of an id as everybody writes it: 36 characters, with hyphens.
pub fn id_of(text: &str) -> Option<Key> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|&at| bytes[at] != b'-') {
        return None;
    }
    let mut digits = bytes.iter().filter(|&&byte| byte != b'-').map(|&byte| char::from(byte).to_digit(16));
    let mut key = [0; 16];
    for byte in &mut key {
        *byte = (digits.next()?? * 16 + digits.next()??) as u8;
    }
    digits.next().is_none().then_some(key)
}

/// Return an id as everybody writes it.
pub fn spelled(key: &Key) -> String {
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
