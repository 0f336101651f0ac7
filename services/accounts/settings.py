"""Settings of accounts, which the API and the command line share. Each is an environment variable `TALLYSTICK_…`."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import PREFIX


class AccountSettings(BaseSettings):
    """What credentials are made and recognised with."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, populate_by_name=True)

    api_key_pepper: SecretStr = Field(
        SecretStr(""),
        description="Secret that API keys are hashed with (HMAC-SHA-256), for the API and for `tallystick key` alike. Without it their SHA-256 "
        "is stored. Keys made with another one are not recognised any more.",
    )
    provider_key_secrets: SecretStr = Field(
        SecretStr(""),
        description="Secrets that keys of users at providers are encrypted with, ID:SECRET, comma-separated: the first encrypts, all decrypt. "
        "`tallystick provider-keys new-secret` makes one.",
    )
    oidc_provider: str = Field(
        "oidc",
        pattern=r"^[\x21-\x7e]{1,100}$",
        description="What the identity provider is called in `users.oauth_provider`, such as keycloak or openshift.",
    )
