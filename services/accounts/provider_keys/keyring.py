"""Encrypts keys of users at providers, with the name of the secret beside each (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from shared.errors import ConfigurationError, TallystickError

VARIABLE: Final = "TALLYSTICK_PROVIDER_KEY_SECRETS"
HINT_CHARACTERS: Final = 4
LEAST_CHARACTERS: Final = 8
"""Of a key. Of a shorter one the hint would tell half."""
_ID: Final = re.compile(r"^[A-Za-z0-9._-]{1,40}$")


class NoSecrets(ConfigurationError):
    """No secret is set: keys at providers can be neither stored nor read."""

    def __init__(self) -> None:
        super().__init__(
            f"keys at providers cannot be kept: {VARIABLE} is not set ('tallystick provider-keys new-secret' makes one)"
        )


class KeyUnreadable(TallystickError):
    """A stored key was encrypted with a secret that is not among those that are set."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A key as it is stored: the token, and which secret made it."""

    token: str
    secret_id: str


class Keyring:
    """The secrets, newest first: the first encrypts, all decrypt."""

    def __init__(self, secrets: str) -> None:
        """Read `ID:SECRET,ID:SECRET`. Raises `ConfigurationError` for what is none, `NoSecrets` for nothing."""
        self._secrets: dict[str, Fernet] = {}
        for number, pair in enumerate(filter(None, (part.strip() for part in secrets.split(","))), 1):
            id_, separator, secret = pair.partition(":")
            try:
                made = Fernet(secret) if separator and _ID.match(id_) and id_ not in self._secrets else None
            except ValueError:
                made = None
            if made is None:  # the text itself is not shown: it may be a secret without a name
                raise ConfigurationError(
                    f"{VARIABLE}: entry {number} is not ID:SECRET with an id of its own ('tallystick provider-keys new-secret' makes one)"
                )
            self._secrets[id_] = made
        if not self._secrets:
            raise NoSecrets
        self._any = MultiFernet(list(self._secrets.values()))

    @property
    def current(self) -> str:
        """The id of the secret that encrypts."""
        return next(iter(self._secrets))

    @property
    def ids(self) -> list[str]:
        """The ids of all secrets, newest first."""
        return list(self._secrets)

    def seal(self, key: str) -> Sealed:
        """Encrypt a key."""
        return Sealed(self._secrets[self.current].encrypt(key.encode()).decode(), self.current)

    def open(self, sealed: Sealed) -> str:
        """Decrypt a key: with the secret that it names, or whichever fits. Raises `KeyUnreadable`."""
        fernet = self._secrets.get(sealed.secret_id, self._any)
        try:
            return fernet.decrypt(sealed.token.encode()).decode()
        except (InvalidToken, UnicodeDecodeError):
            raise KeyUnreadable(
                f"a key was encrypted with the secret '{sealed.secret_id}', which is not in {VARIABLE} (any more), or is another one there"
            ) from None


def hint_of(key: str) -> str:
    """Return what a key is recognised by: its last characters."""
    return key[-HINT_CHARACTERS:]


def new_secret(id_: str) -> str:
    """Return a new entry for the setting. Raises `ConfigurationError` for an id that cannot be one."""
    if not _ID.match(id_):
        raise ConfigurationError(f"'{id_}' is no id of a secret: letters, digits, '.', '_' and '-', at most 40")
    return f"{id_}:{Fernet.generate_key().decode()}"
