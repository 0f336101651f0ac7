"""Payment methods: how customers can pay, as their provider has it. Card numbers stay with the provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.billing.payments import store
from services.billing.payments.invoice_state import id_or_none
from services.billing.payments.provider import MethodReport, PaymentProvider, Person, ProviderName
from services.billing.payments.store import SQL, as_row
from shared.errors import ConfigurationError, NotFound
from shared.ids import uuid7
from shared.postgres import Connection, Pool, transaction


class UnknownCustomer(NotFound, ConfigurationError):
    """There is no such user."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way in which a user can pay."""

    id: UUID
    user_id: UUID
    type: str
    provider: ProviderName
    provider_method_id: str
    is_default: bool
    last_four: str | None
    brand: str | None
    expiry_month: int | None
    expiry_year: int | None


async def person(connection: Connection, user_id: UUID) -> Person:
    """Return a customer as a provider is told of them. Raises `UnknownCustomer`."""
    row = await connection.fetchrow(SQL["customer"], user_id)
    if row is None:
        raise UnknownCustomer(f"there is no user {user_id}")
    return Person(row["id"], row["email"], row["stripe_customer_id"])


async def find_user(connection: Connection, user: str) -> UUID:
    """Return the id of a user, by id or e-mail address. Raises `UnknownCustomer`."""
    found: UUID | None = await connection.fetchval(SQL["user_named"], user.strip(), id_or_none(user))
    if found is None:
        raise UnknownCustomer(f"there is no user '{user}': give an id or an e-mail address")
    return found


async def customer_of(pool: Pool, provider: PaymentProvider, user_id: UUID) -> str:
    """Return what the provider calls a user, making them known to it the first time. Two workers at once make one customer."""
    async with pool.acquire() as connection:
        known = await person(connection, user_id)
    if provider.name != "stripe":
        return await provider.create_customer(known)
    if known.customer_id:
        return known.customer_id
    made = await provider.create_customer(known)
    async with transaction(pool) as connection:
        await store.begin(connection, user_id)
        await connection.execute(SQL["lock_account"], user_id)
        await connection.execute(SQL["keep_customer"], user_id, made)
        return (await person(connection, user_id)).customer_id or made


async def list_methods(connection: Connection, user_id: UUID) -> list[Method]:
    """Return how a user can pay, the default first."""
    return [m for row in await connection.fetch(SQL["methods"], user_id) if (m := as_row(Method, row))]


async def make_default(connection: Connection, user_id: UUID, method_id: UUID) -> None:
    """Let a user be charged by this method. Raises `ConfigurationError` if it is not theirs."""
    async with connection.transaction():
        await store.begin(connection, user_id)
        await connection.execute(SQL["no_default_method"], user_id)
        if await connection.fetchval(SQL["default_method"], user_id, method_id) is None:
            raise ConfigurationError(
                f"user {user_id} has no payment method {method_id}: 'tallystick payments methods' lists them"
            )


async def synchronise(pool: Pool, provider: PaymentProvider, user_id: UUID, *, at: datetime) -> list[Method]:
    """Fetch a user's methods from the provider, and take away those that it has no more. For one who is no customer there: none."""
    async with pool.acquire() as connection:
        known = await person(connection, user_id)
    found: Sequence[MethodReport] = await provider.list_methods(known.customer_id) if known.customer_id else []
    async with transaction(pool) as connection:
        await store.begin(connection, user_id)
        for report in found:
            await _keep(connection, provider.name, user_id, report)
        names = [report.provider_method_id for report in found]
        await connection.execute(SQL["detach_missing"], user_id, provider.name, names, at)
        return await list_methods(connection, user_id)


async def apply_method_report(
    connection: Connection, provider: ProviderName, report: MethodReport, *, at: datetime
) -> bool:
    """Let our books say what a provider tells of a method; return whether it is of a customer of ours. In the caller's transaction."""
    if not report.attached:
        return (
            str(await connection.execute(SQL["detach_method"], provider, report.provider_method_id, at)) != "UPDATE 0"
        )
    user_id = await connection.fetchval(SQL["user_of_customer"], report.customer_id)
    if user_id is None:
        return False
    await store.begin(connection, user_id)
    await _keep(connection, provider, user_id, report)
    return True


async def _keep(connection: Connection, provider: ProviderName, user_id: UUID, report: MethodReport) -> None:
    await connection.execute(
        SQL["keep_method"], uuid7(), user_id, report.type, provider, report.provider_method_id, report.last_four, report.brand,
        report.expiry_month, report.expiry_year,
    )  # fmt: skip
