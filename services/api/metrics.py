"""The API's metrics: meaning, unit and labels in one place."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "tallystick_api_requests",
    "Requests that were answered, by method, route (its template) and status.",
    ["method", "route", "status"],
)
REQUEST_SECONDS = Histogram(
    "tallystick_api_request_seconds",
    "From the first byte of a request to the last of its answer, by route.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_FLIGHT = Gauge("tallystick_api_requests_in_flight", "Requests that are being answered.")
STREAMS = Gauge("tallystick_api_streams", "Streams of live counters that are open.")
REFUSED_CREDENTIALS = Counter(
    "tallystick_api_refused_credentials",
    "Credentials that were refused, by kind: api_key, session, token, none.",
    ["kind"],
)
STALE_CREDENTIALS = Counter(
    "tallystick_api_stale_credentials",
    "Requests whose API key was recognised from memory while Postgres did not answer.",
)
ENTITLEMENTS = Counter(
    "tallystick_api_entitlements",
    "Answers to whether a request may go, by outcome (allowed, refused) and what they were decided by: database, status.",
    ["outcome", "source"],
)
STATUSES = Gauge("tallystick_api_statuses", "Subscriptions whose status was read from subscription.status.")
RESERVATIONS = Counter(
    "tallystick_api_reservations",
    "Answers to what was to be reserved, by outcome: reserved, repeated, refused, key_reused, unknown.",
    ["outcome"],
)
RESERVATIONS_TOGETHER = Histogram(
    "tallystick_api_reservations_together",
    "Reservations that one transaction answered.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 250),
)
EVENTS = Counter(
    "tallystick_api_events",
    "Usage events that came by HTTP and were answered, by status: accepted, duplicate, rejected.",
    ["status"],
)
REFUSED_EVENTS = Counter(
    "tallystick_api_refused_events", "Usage events that came by HTTP and were rejected, by reason.", ["reason"]
)
SPANS = Counter(
    "tallystick_api_spans", "Spans that came to /v1/traces, by what they are: usage, other (and so ignored).", ["kind"]
)
EVENTS_WAITING = Gauge("tallystick_api_events_waiting", "Usage events that wait for the broker to acknowledge them.")
ACK_SECONDS = Histogram(
    "tallystick_api_ack_seconds",
    "How long the broker took to acknowledge all events of one request.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
NOT_ACKNOWLEDGED = Counter(
    "tallystick_api_not_acknowledged",
    "Requests with events that were answered 503, by cause: overload (too much is waiting), broker.",
    ["cause"],
)
LOGINS = Counter(
    "tallystick_api_logins", "Logins with a password, by how they ended: done, refused, limited.", ["result"]
)
KEY_FETCHES = Counter(
    "tallystick_api_oidc_key_fetches",
    "Times the identity provider was asked for its keys, by result: done, failed.",
    ["result"],
)
UNREADABLE_PROVIDER_KEYS = Gauge(
    "tallystick_api_unreadable_provider_keys",
    "Stored keys of users at providers that none of the secrets that are set decrypts; looked at every hour.",
)
