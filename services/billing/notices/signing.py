"""Signatures in the format of Standard Webhooks, and the secrets behind them: shown once, stored encrypted."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from standardwebhooks import Webhook

from shared.errors import ConfigurationError, TallystickError

PREFIX = "whsec_"
SECRET_BYTES = 32


class SecretUnreadable(TallystickError):
    """A stored secret was encrypted with a key that is not among those configured."""


def new_secret() -> str:
    """Return a new signing secret, as receivers take it: `whsec_` and 32 random bytes in base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def headers(message_id: str, at: datetime, body: bytes, signing: Sequence[str]) -> dict[str, str]:
    """Return the three headers of Standard Webhooks; one signature for each secret, so that receivers can change theirs in peace."""
    text = body.decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, text) for secret in signing),
    }


class Keyring:
    """Encrypts secrets with the first of some Fernet keys, and decrypts them with any. Raises `ConfigurationError` for a key that is none."""

    def __init__(self, keys: str) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key.strip()) for key in keys.split(",") if key.strip()])
        except ValueError:
            raise ConfigurationError(
                "TALLYSTICK_BILLING_WEBHOOK_KEYS does not hold Fernet keys: make one with 'tallystick webhooks new-key'"
            ) from None

    def seal(self, secret: str) -> bytes:
        """Encrypt a secret."""
        return self._fernet.encrypt(secret.encode())

    def open(self, sealed: bytes) -> str:
        """Decrypt a secret. Raises `SecretUnreadable`."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise SecretUnreadable(
                "the secret was encrypted with a key that is not in TALLYSTICK_BILLING_WEBHOOK_KEYS: put it back there, "
                "or rotate the endpoint's secret"
            ) from None

    def reseal(self, sealed: bytes) -> bytes:
        """Encrypt a secret anew, with the first key. Raises `SecretUnreadable`."""
        return self.seal(self.open(sealed))


def keyring(settings: Mapping[str, object] | object) -> Keyring | None:
    """Return the keyring that the settings describe, or None if they name no key."""
    keys = getattr(settings, "billing_webhook_keys", None)
    return Keyring(keys.get_secret_value()) if keys and keys.get_secret_value().strip() else None


def new_key() -> str:
    """Return a new key for `TALLYSTICK_BILLING_WEBHOOK_KEYS`."""
    return Fernet.generate_key().decode()
