"""Which adapter a name stands for, with this installation's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from services.billing.payments.manual import ManualProvider, Unconfigured
from services.billing.payments.provider import NotConfigured, PaymentProvider, ProviderName
from services.billing.payments.settings import PaymentSettings


@dataclass(slots=True)
class Providers:
    """The providers, each made when it is first asked for. `preferred` takes new payments."""

    settings: PaymentSettings
    _made: dict[ProviderName, PaymentProvider] = field(default_factory=dict)

    @property
    def preferred(self) -> PaymentProvider:
        """Who takes new payments."""
        return self[self.settings.payment_provider]

    def __getitem__(self, name: ProviderName) -> PaymentProvider:
        """Return the adapter of a provider. Raises `NotConfigured` that says what is missing."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def require(self, name: ProviderName) -> PaymentProvider:
        """Return an adapter that can be asked for money. Raises `NotConfigured`, before anything is stored that nobody can be asked for."""
        provider = self[name]
        if isinstance(provider, Unconfigured):
            raise provider.not_configured()
        return provider

    def use(self, provider: PaymentProvider) -> None:
        """Take this adapter for its name: for tests, and for adapters of an installation's own."""
        self._made[provider.name] = provider

    def _make(self, name: ProviderName) -> PaymentProvider:
        if name == "manual":
            return ManualProvider()
        return _stripe(self.settings) if name == "stripe" else Unconfigured(name)


def _stripe(settings: PaymentSettings) -> PaymentProvider:
    key = _secret(settings.stripe_api_key, settings.stripe_api_key_file)
    if not key:
        raise NotConfigured("stripe is not configured: set TALLYSTICK_STRIPE_API_KEY (or …_FILE) to its secret key")
    try:
        from services.billing.payments.stripe_provider import StripeProvider  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise NotConfigured(
            f"stripe is not configured: its library is missing ({error.name}): pip install 'tallystick[stripe]'"
        ) from None
    secrets = _secret(settings.stripe_webhook_secret, settings.stripe_webhook_secret_file)
    return StripeProvider(
        key, [part.strip() for part in secrets.split(",") if part.strip()], api_base=settings.stripe_api_base
    )


def _secret(variable: SecretStr | None, file: str) -> str:
    if variable is not None:
        return variable.get_secret_value()
    return Path(file).read_text(encoding="utf-8").strip() if file else ""
