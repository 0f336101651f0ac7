"""What the plug-in is told, by environment variables: the way in which everything about a LiteLLM proxy can be set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from tallystick.errors import ProducerError

PREFIX: Final = "TALLYSTICK_LITELLM_"
_NAMES: Final = {
    "url": "TALLYSTICK_URL",
    "api_key": "TALLYSTICK_API_KEY",
    "api_key_file": "TALLYSTICK_API_KEY_FILE",
    "kafka_bootstrap_servers": "KAFKA_BOOTSTRAP_SERVERS",
    "kafka_topic_prefix": "TALLYSTICK_KAFKA_TOPIC_PREFIX",
}


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One proxy process."""

    url: str = _setting(
        "",
        "Address of the HTTP API, such as `https://usage.example.com`: events go there, and entitlements are asked there.",
    )
    api_key: str = _setting("", "API key of the gateway, of an owner with the role `service`.")
    api_key_file: str = _setting("", "File with that key, in place of the variable.")
    kafka_bootstrap_servers: str = _setting(
        "",
        "Brokers, host:port, comma-separated: events go to Kafka then, and not to the API. For TLS and logins the variables of the workers serve.",
    )
    kafka_topic_prefix: str = _setting("", "Put before the name of the topic.")
    source: str = _setting("/gateways/litellm", "The `source` of the events.")
    spool: str = _setting(
        "tallystick-spool", "Directory of the spool, on a local disk that outlives the process. Workers may share it."
    )
    spool_bytes: int = _setting(1024**3, "How much may wait there, by worker. 1 GiB holds some 1.5 million events.")
    when_full: Literal["serve", "refuse"] = _setting(
        "serve",
        "What becomes of requests while the spool is full: they are served, their usage is lost and counted in the log; or they are refused.",
    )
    subscription: str = _setting(
        "", "Subscription of requests with the proxy's master key, which is nobody's; without it their events are held."
    )
    cache_hits: Literal["free", "billed"] = _setting(
        "free", "Whether an answer out of LiteLLM's own cache has its tokens. It counts as a request either way."
    )
    wait_seconds: float = _setting(
        1.0,
        "How long an answer may wait for its event to be in the spool, normally a few milliseconds; 0 does not wait: SIGKILL may then lose an event.",
    )
    enforce: Literal["off", "entitlements", "reservations"] = _setting(
        "off",
        "What is asked before a request is served: nothing; whether its subscription may go on; or for room, held until the usage is stored.",
    )
    when_away: Literal["serve", "refuse"] = _setting("serve", "What becomes of requests while the API does not answer.")
    ask_seconds: float = _setting(1.0, "How long the API may take to answer before a request.")
    estimated_tokens: int = _setting(
        1000,
        "Tokens of the answer that a reservation asks for where the request has no `max_tokens`; those of the prompt are estimated from its length.",
    )
    metadata: tuple[str, ...] = _setting(
        (), "Keys of a request's `metadata` that are kept with its event, comma-separated."
    )

    @property
    def secret(self) -> str:
        """The API key, from wherever it is. Raises `ProducerError`."""
        if not self.api_key_file:
            return self.api_key
        from tallystick.transports.kafka import secret  # noqa: PLC0415

        return secret(self.api_key_file)


def variable_name(name: str) -> str:
    """Return the environment variable of a setting."""
    return _NAMES.get(name, PREFIX + name.upper())


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises `ProducerError` that names the variable which is wrong, or missing."""
    types = get_type_hints(Settings)
    found = {
        each.name: _value(each.name, types[each.name], said)
        for each in fields(Settings)
        if (said := environment.get(variable_name(each.name)))
    }
    unknown = [
        name
        for name in environment
        if name.startswith(PREFIX) and name not in {variable_name(each.name) for each in fields(Settings)}
    ]
    if unknown:
        raise ProducerError(
            f"{', '.join(sorted(unknown))}: no setting has this name; docs/reference/settings.md lists them"
        )
    settings = Settings(**found)
    if not settings.url and not settings.kafka_bootstrap_servers:
        raise ProducerError(
            "set TALLYSTICK_URL and TALLYSTICK_API_KEY to send events to the HTTP API, or KAFKA_BOOTSTRAP_SERVERS to send them to Kafka"
        )
    if settings.url and not settings.secret:
        raise ProducerError("TALLYSTICK_URL is set, but no API key: set TALLYSTICK_API_KEY or TALLYSTICK_API_KEY_FILE")
    if settings.enforce != "off" and not settings.url:
        raise ProducerError(
            f"{variable_name('enforce')} is {settings.enforce}, which asks the HTTP API: set TALLYSTICK_URL"
        )
    return settings


def _value(name: str, kind: Any, said: str) -> Any:
    """Read one value as the setting's type."""
    if get_origin(kind) is Literal:
        if said not in get_args(kind):
            raise ProducerError(f"{variable_name(name)} is {said!r}; it is one of {', '.join(get_args(kind))}")
        return said
    if kind in (int, float):
        try:
            value = kind(said)
        except ValueError:
            value = -1
        if value < 0:
            raise ProducerError(f"{variable_name(name)} is {said!r}; it is a number from 0 on")
        return value
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in said.split(",") if part.strip())
    return said


def table() -> list[tuple[str, str, str, str]]:
    """Return of each setting its variable, default, what is allowed, and its meaning: for the documentation."""
    types = get_type_hints(Settings)
    return [
        (
            variable_name(each.name),
            "" if each.default in ("", (), MISSING) else str(each.default),
            ", ".join(get_args(types[each.name])) if get_origin(types[each.name]) is Literal else "",
            each.metadata["description"],
        )
        for each in fields(Settings)
    ]
