//! What a batch adds up to: by use, in an hour, and by provider, in a minute; as JSON, ready to be announced.
//!
//! The objects are `UsageDelta` and `ProviderDelta` of shared/contracts.py, and the rules those of services/ingest/deltas.py.

use std::collections::HashMap;
use std::fmt::Write;

use crate::event::Data;
use crate::instant;
use crate::names::Names;
use crate::rows::{self, Key};

const RATE_LIMITED: u16 = 429;
const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;

/// How latencies and reservations are counted.
#[derive(Clone)]
pub struct Counting {
    pub latency_buckets_ms: Vec<u32>,
    pub most_reservations: usize,
}

#[derive(Clone)]
struct Latencies {
    sum: u64,
    histogram: Vec<u64>,
}

impl Latencies {
    fn none(counting: &Counting) -> Self {
        Latencies { sum: 0, histogram: vec![0; counting.latency_buckets_ms.len() + 1] }
    }

    fn add(&mut self, latency: u32, bucket: usize) {
        self.sum += u64::from(latency);
        self.histogram[bucket] += 1;
    }

    fn put(&self, json: &mut String) {
        put(json, "latency_sum_ms", self.sum);
        put(json, "latency_count", self.histogram.iter().sum::<u64>());
        let counts: Vec<String> = self.histogram.iter().map(u64::to_string).collect();
        put(json, "latency_histogram", format_args!("[{}]", counts.join(",")));
    }
}

/// Events that differ only in what is counted, and in their texts.
struct Use {
    owner: u32,
    kind: u32,
    hour: i64,
    status_class: u16,
    requests: u64,
    request_tokens: u128, // 10,000 times 2^53 is more than 64 bits hold
    response_tokens: u128,
    cached_tokens: u128,
    tokens_returned: u128,
    latencies: Latencies,
    first: i64,
    last: i64,
    reservations: Vec<Key>,
    full: bool,
}

/// What was seen of a provider within a minute.
struct Seen {
    provider: u32,
    minute: i64,
    requests: u64,
    rate_limited: u64,
    latencies: Latencies,
    last_success: Option<i64>,
    failures: Vec<i64>,
}

pub struct Sums {
    counting: Counting,
    uses: Vec<Use>,
    by_name: HashMap<(u32, u32, i64, u16), usize>,
    seen: Vec<Seen>,
    by_provider: HashMap<(u32, i64), usize>,
    pub events: u64,
}

impl Sums {
    pub fn new(counting: Counting) -> Self {
        let (uses, by_name, seen, by_provider) = (Vec::new(), HashMap::new(), Vec::new(), HashMap::new());
        Sums { counting, uses, by_name, seen, by_provider, events: 0 }
    }

    /// Add an event. `owner` and `shared` are its numbers among `names`.
    pub fn add(&mut self, names: &Names, owner: u32, shared: u32, at: i64, data: &Data, reservation: Option<Key>) {
        self.events += 1;
        let status_class = if data.status_code < 400 { 2 } else { data.status_code / 100 };
        let bucket = |latency| self.counting.latency_buckets_ms.partition_point(|&bound| bound < latency);
        let latency = data.latency_ms.map(|latency| (latency, bucket(latency)));
        self.add_use(
            (owner, names.kind(shared), at - at.rem_euclid(HOUR), status_class),
            at,
            data,
            latency,
            reservation,
        );
        self.add_seen((names.provider(shared), at - at.rem_euclid(MINUTE)), at, data.status_code, latency);
    }

    fn add_use(
        &mut self,
        name: (u32, u32, i64, u16),
        at: i64,
        data: &Data,
        latency: Option<(u32, usize)>,
        reservation: Option<Key>,
    ) {
        let number = *self.by_name.entry(name).or_insert_with(|| {
            let (owner, kind, hour, status_class) = name;
            self.uses.push(Use {
                owner,
                kind,
                hour,
                status_class,
                requests: 0,
                request_tokens: 0,
                response_tokens: 0,
                cached_tokens: 0,
                tokens_returned: 0,
                latencies: Latencies::none(&self.counting),
                first: at,
                last: at,
                reservations: Vec::new(),
                full: false,
            });
            self.uses.len() - 1
        });
        let found = &mut self.uses[number];
        found.requests += 1;
        found.request_tokens += u128::from(data.request_tokens);
        found.response_tokens += u128::from(data.response_tokens);
        found.cached_tokens += u128::from(data.cached_tokens);
        found.tokens_returned += u128::from(data.tokens_returned.unwrap_or(0));
        found.first = found.first.min(at);
        found.last = found.last.max(at);
        if let Some((latency, bucket)) = latency {
            found.latencies.add(latency, bucket);
        }
        if let Some(id) = reservation {
            found.reservations.push(id);
            if found.reservations.len() >= self.counting.most_reservations {
                found.full = true;
                self.by_name.remove(&name);
            }
        }
    }

    fn add_seen(&mut self, name: (u32, i64), at: i64, status: u16, latency: Option<(u32, usize)>) {
        let number = *self.by_provider.entry(name).or_insert_with(|| {
            let (provider, minute) = name;
            let latencies = Latencies::none(&self.counting);
            let failures = Vec::new();
            self.seen.push(Seen {
                provider,
                minute,
                requests: 0,
                rate_limited: 0,
                latencies,
                last_success: None,
                failures,
            });
            self.seen.len() - 1
        });
        let found = &mut self.seen[number];
        found.requests += 1;
        if let Some((latency, bucket)) = latency {
            found.latencies.add(latency, bucket);
        }
        if status < 400 {
            found.last_success = found.last_success.max(Some(at));
        } else {
            found.failures.push(at);
            found.rate_limited += u64::from(status == RATE_LIMITED);
        }
    }

    /// Return the minutes in which events lie.
    pub fn minutes(&self) -> Vec<i64> {
        let mut minutes: Vec<i64> = self.seen.iter().map(|seen| seen.minute).collect();
        minutes.sort_unstable();
        minutes.dedup();
        minutes
    }

    /// Return when the last event was.
    pub fn last(&self) -> Option<i64> {
        self.uses.iter().map(|found| found.last).max()
    }

    /// Return the uses, as `UsageDelta`.
    pub fn uses(&self, names: &Names) -> String {
        let mut json = String::with_capacity(self.uses.len() * 420);
        for found in &self.uses {
            begin(&mut json);
            json.push_str(names.owner_json(found.owner));
            put(&mut json, "hour", format_args!("\"{}\"", instant::written(found.hour)));
            json.push_str(names.kind_json(found.kind));
            if found.status_class != 2 {
                put(&mut json, "status_class", found.status_class);
                put(&mut json, "errors", found.requests);
            }
            put(&mut json, "requests", found.requests);
            for (name, tokens) in [
                ("request_tokens", found.request_tokens),
                ("response_tokens", found.response_tokens),
                ("cached_tokens", found.cached_tokens),
                ("tokens_returned", found.tokens_returned),
            ] {
                if tokens > 0 {
                    put(&mut json, name, tokens);
                }
            }
            found.latencies.put(&mut json);
            put(&mut json, "first_event_at", format_args!("\"{}\"", instant::written(found.first)));
            put(&mut json, "last_event_at", format_args!("\"{}\"", instant::written(found.last)));
            if !found.reservations.is_empty() {
                let ids: Vec<String> =
                    found.reservations.iter().map(|id| format!("\"{}\"", rows::spelled(id))).collect();
                put(&mut json, "reservations", format_args!("[{}]", ids.join(",")));
            }
            json.push('}');
        }
        json
    }

    /// Return what was seen of providers that have a name, as `ProviderDelta`.
    pub fn providers(&self, names: &Names) -> String {
        let mut json = String::new();
        for seen in &self.seen {
            let Some(provider) = names.provider_json(seen.provider) else { continue };
            begin(&mut json);
            json.push_str(provider);
            put(&mut json, "minute", format_args!("\"{}\"", instant::written(seen.minute)));
            put(&mut json, "requests", seen.requests);
            put(&mut json, "errors", seen.failures.len());
            put(&mut json, "rate_limited", seen.rate_limited);
            seen.latencies.put(&mut json);
            if let Some(at) = seen.last_success {
                put(&mut json, "last_success_at", format_args!("\"{}\"", instant::written(at)));
            }
            if let Some(&at) = seen.failures.iter().max() {
                put(&mut json, "last_failure_at", format_args!("\"{}\"", instant::written(at)));
            }
            let trailing = seen.failures.iter().filter(|&&at| Some(at) > seen.last_success).count();
            put(&mut json, "trailing_failures", trailing);
            json.push('}');
        }
        json
    }
}

/// Begin an object behind those that are there.
fn begin(json: &mut String) {
    json.push_str(if json.is_empty() { "{" } else { ",{" });
}

/// Write another member of an object.
fn put(json: &mut String, name: &str, content: impl std::fmt::Display) {
    write!(json, ",\"{name}\":{content}").expect("memory takes it");
}
