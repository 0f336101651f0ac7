"""Every route by which an administrator changes something: it does, and the audit trail says who did it. One walk through all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import httpx
from fastapi import FastAPI

from services.api.app import make_app
from services.billing.subscriptions.desk import coupons
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.api.facts import Customer, Facts
from tests.integration.api.test_wrong_tenant import routes
from tests.integration.billing_facts import Desk, make_customer, make_price, usage
from tests.integration.schema_facts import insert, make_model, make_subscription

ADMIN: Final = "/api/v1/admin"
MONEY: Final = ("/credits/", "/payments/", "/payments", "/invoice-runs", "/reconciliation", "/invoices/", "/dunning")
"""What finance does, too."""
LATER: Final = "2036-01-01T00:00:00Z"
NEVER_SET: Final = "POST PUT PATCH DELETE"


def writing_routes() -> set[str]:
    return {
        f"{method} {path}"
        for method, path in routes(make_app())
        if path.startswith(ADMIN) and method in NEVER_SET.split()
    }


OWN_TRANSACTIONS: Final = {
    "/payments/{payment_id}/refunds", "/quarantine/replay", "/jobs/{name}/run", "/invoice-runs/{month}",
}  # fmt: skip
"""What runs in transactions of its capability, several or long ones: the trail has who acted, not from where."""


@dataclass(slots=True)
class Walk:
    """Asks as an administrator, and sees that each change left an entry with the administrator's name."""

    client: httpx.AsyncClient
    pool: Pool
    admin: Customer
    walked: set[str] = field(default_factory=set)

    async def go(
        self, method: str, template: str, body: Any = None, status: int = 200, query: str = "", **path: Any
    ) -> Any:
        """Take one step; return the answer."""
        before = await self.pool.fetchval("SELECT count(*) FROM audit_logs")
        url = (ADMIN + template).format(**path) + query
        headers = {
            **self.admin.headers,
            "Idempotency-Key": uuid7().hex,
            "User-Agent": "a console",
            "X-Request-ID": f"request-{before}",
        }
        answer = await self.client.request(method, url, json=body, headers=headers)
        assert answer.status_code == status, f"{method} {url}: {answer.text}"
        entries = await self.pool.fetch(
            """SELECT actor, action, host(ip_address) AS address, user_agent, metadata->>'request_id' AS request_id,
                      request_setting('address') AS outside
               FROM audit_logs ORDER BY created_at, id OFFSET $1""",
            before,
        )
        assert entries, f"{method} {url} leaves no entry"
        name = (await self.client.get("/api/v1/me", headers=self.admin.headers)).json()["name"]
        assert {entry["actor"] for entry in entries} == {name}, f"{method} {url}: {entries}"
        from_where = {(entry["address"], entry["user_agent"], entry["request_id"]) for entry in entries}
        expected = (
            (None, None, None) if template in OWN_TRANSACTIONS else ("127.0.0.1", "a console", f"request-{before}")
        )
        assert from_where == {expected}, f"{method} {url}: {entries}"
        assert {entry["outside"] for entry in entries} == {None}, "what a transaction said ends with it"
        self.walked.add(f"{method} {ADMIN}{template}")
        return answer.json() if answer.content else None


async def test_every_change_of_an_administrator_is_made_and_audited(
    client: httpx.AsyncClient, facts: Facts, database_pool: Pool
) -> None:
    walk = Walk(client, database_pool, await facts.customer("admin"))
    ada = await facts.customer()
    await walk_users(walk)
    await walk_people(walk, ada)
    await walk_subscriptions(walk, ada)
    await walk_catalogue(walk)
    await walk_money(walk, ada)
    await walk_repair(walk, ada)
    await walk_corrections(walk)
    done = await walk.go("POST", "/jobs/{name}/run", {}, name="change-subscriptions")
    assert done["finished"]
    libraries = {
        "libraries": [{"id": "/mongodb/docs", "name": "MongoDB", "versions": [{"version": "7.0", "is_latest": True}]}]
    }
    done = await walk.go("POST", "/libraries/import", libraries)
    assert (done["new"], done["new_versions"]) == (1, 1)
    assert writing_routes() - walk.walked == set(), "walk them, too"


async def walk_users(walk: Walk) -> None:
    new = {
        "email": "bob@example.com",
        "full_name": "Bob Secret",
        "roles": ["finance"],
        "password": "correct horse battery",
    }
    bob = await walk.go("POST", "/users", new, 201)
    assert (bob["username"], bob["roles"]) == ("bob@example.com", ["user", "finance"])
    assert await walk.pool.fetchval(
        "SELECT starts_with(password_hash, '$argon2') FROM users WHERE id = $1", UUID(bob["id"])
    )
    changed = await walk.go(
        "PATCH", "/users/{user_id}", {"subscription_tier": "pro", "roles": ["user"]}, user_id=bob["id"]
    )
    assert (changed["subscription_tier"], changed["roles"], changed["is_active"]) == ("pro", ["user"], True)
    trail = await walk.pool.fetch(
        "SELECT before, after, admin_id FROM audit_logs WHERE action = 'user.changed' AND resource_id = $1", bob["id"]
    )
    assert {entry["admin_id"] for entry in trail} == {walk.admin.user_id}
    assert sorted((entry["before"], entry["after"]) for entry in trail) == [
        ('{"roles": ["user", "finance"]}', '{"roles": ["user"]}'),
        ('{"subscription_tier": "free"}', '{"subscription_tier": "pro"}'),
    ]
    erased = await walk.go("POST", "/users/{user_id}/anonymise", {"why": "asked for"}, user_id=bob["id"])
    assert erased["email"].endswith("@erased.invalid")
    assert (
        await walk.pool.fetchval(
            "SELECT count(*) FROM audit_logs l WHERE l::text LIKE ANY ('{%bob@example.com%,%Secret%}')"
        )
        == 0
    )


async def walk_people(walk: Walk, ada: Customer) -> None:
    note = await walk.go("POST", "/users/{user_id}/notes", {"note": "calls often"}, 201, user_id=ada.user_id)
    assert note["admin_id"] == str(walk.admin.user_id)
    note = await walk.go("PATCH", "/notes/{note_id}", {"is_flagged": True}, note_id=note["id"])
    assert (note["is_flagged"], note["note"]) == (True, "calls often")
    await walk.go("DELETE", "/notes/{note_id}", status=204, note_id=note["id"])
    assert await walk.pool.fetchval("SELECT count(*) FROM admin_notes") == 0
    first, *_ = [await make_session(walk.pool, ada.user_id) for _ in range(3)]
    await walk.go("DELETE", "/sessions/{session_id}", session_id=first)
    ended = await walk.go("DELETE", "/users/{user_id}/sessions", user_id=ada.user_id)
    assert ended == {"sessions": 2}
    assert await walk.pool.fetchval("SELECT count(*) FROM sessions") == 0


async def make_session(pool: Pool, user_id: UUID) -> UUID:
    """Store a login; return its id."""
    now, family = datetime.now(UTC), uuid7()
    async with pool.acquire() as connection:
        await insert(
            connection, "sessions", user_id=user_id, family=family, access_token=uuid7().hex * 2, refresh_token=uuid7().hex * 2,
            access_expires_at=now, expires_at=datetime(2036, 1, 1, tzinfo=UTC), created_at=now, logged_in_at=now,
        )  # fmt: skip
    return family


async def walk_subscriptions(walk: Walk, ada: Customer) -> None:
    async with walk.pool.acquire() as connection:
        await coupons.create_coupon(
            connection, coupons.NewCoupon("HALF", "Half", percent=Decimal(50)), now=datetime(2026, 11, 1, tzinfo=UTC)
        )
    email = await walk.pool.fetchval("SELECT email FROM users WHERE id = $1", ada.user_id)
    new = {"user": email, "plan": "basic", "pending": True, "why": "a trial"}
    begun = await walk.go("POST", "/subscriptions", new, 201)
    id_, one = begun["id"], "/subscriptions/{subscription_id}"
    assert (begun["status"], begun["plan_id"]) == ("pending", "basic")

    async def step(name: str, body: Mapping[str, Any] | None = None, method: str = "POST") -> Any:
        return await walk.go(method, f"{one}/{name}", body or {}, subscription_id=id_)

    assert (await step("activate"))["status"] == "active"
    assert (await step("pause", {"why": "holidays"}))["status"] == "paused"
    assert (await step("resume"))["status"] == "active"
    assert (await step("suspend", {"why": "misuse"}))["suspended_reasons"] == ["admin"]
    assert (await step("reactivate", {"reason": "admin"}))["status"] == "active"
    quotas = await step("quotas", {"quota_requests": 0, "why": "a test"}, "PATCH")
    assert (quotas["status"], quotas["suspended_reasons"]) == ("suspended", ["quota_requests"])
    quotas = await step("quotas", {"quota_requests": None, "why": "enough"}, "PATCH")
    assert (quotas["status"], quotas["quota_requests"]) == ("active", None)
    assert quotas["quota_tokens"] is not None, "what is left out stays"
    assert (await step("redeem", {"code": "HALF"}))["id"] == id_
    assert (await step("change-plan", {"plan": "premium", "at_period_end": True}))["plan_id"] == "basic"
    assert await step("withdraw", {"kind": "plan"}) == {"changes": 1}
    assert (await step("change-plan", {"plan": "premium"}))["plan_id"] == "premium"
    assert (await step("cancel", {"at_period_end": True}))["cancel_at_period_end"]
    assert (await step("cancel", {"why": "now"}))["status"] == "cancelled"
    shown = await walk.client.get(f"{ADMIN}/subscriptions/{id_}", headers=walk.admin.headers)
    assert shown.json()["history"][0]["action"] == "subscription.cancelled"
    assert shown.json()["history"][0]["details"] == {"why": "now"}
    assert [coupon["code"] for coupon in shown.json()["coupons"]] == ["HALF"]


async def walk_catalogue(walk: Walk) -> None:
    model = {"name": "Tiny", "provider": "acme", "capabilities": ["chat"], "context_length": 8192}
    made = await walk.go("PUT", "/models/{model_id}", model, 201, model_id="acme/tiny")
    assert (made["id"], made["is_active"]) == ("acme/tiny", True)
    await walk.go("PUT", "/models/{model_id}", model | {"name": "Tiny 2"}, 200, model_id="acme/tiny")
    price = {
        "model": "acme/tiny",
        "currency": "EUR",
        "input_per_1k": "0.0025",
        "output_per_1k": "0.01",
        "valid_from": LATER,
    }
    [set_] = await walk.go("POST", "/prices", {"prices": [price]}, 201)
    assert (set_["subject"], set_["input_per_1k"], set_["valid_from"]) == ("acme/tiny", "0.0025", LATER)
    await walk.go("POST", "/prices/{price_id}/end", {"at": "2036-02-01T00:00:00Z"}, 204, price_id=set_["id"])
    assert await walk.pool.fetchval("SELECT valid_to FROM model_prices") == datetime(2036, 2, 1, tzinfo=UTC)
    costs = {
        "gpt-9": {
            "litellm_provider": "openai",
            "mode": "chat",
            "input_cost_per_token": 2.5e-06,
            "output_cost_per_token": 1e-05,
        }
    }
    done = await walk.go("POST", "/prices/import-litellm", costs, query="?new_currency=true&markup_percent=20")
    assert (done["new_models"], done["changes"][0]["becomes"]["input_per_1k"]) == (["gpt-9"], "0.003")
    withdrawn = await walk.go("DELETE", "/models/{model_id}", model_id="acme/tiny")
    assert not withdrawn["is_active"]
    plan = {"id": "team", "name": "Team", "amount": "49.00", "currency": "EUR", "limits": {"requestsPerMonth": 1000}}
    made = await walk.go("POST", "/plans", plan, 201)
    assert made == {"plan": "team", "is_new": True, "valid_from": None}
    made = await walk.go("POST", "/plans", plan | {"amount": "59.00", "valid_from": LATER}, 201)
    assert made == {"plan": "team", "is_new": False, "valid_from": LATER}
    closed = await walk.go("PATCH", "/plans/{plan_id}", {"is_active": False}, plan_id="team")
    assert (closed["is_active"], [version["amount"] for version in closed["versions"]]) == (False, ["49.00", "59.00"])
    level = await walk.go("PATCH", "/power-levels/{level}", {"cost_multiplier": "0.65"}, level="eco")
    assert (level["cost_multiplier"], level["fallback_strategy"]) == ("0.65", "next_provider")


async def walk_money(walk: Walk, ada: Customer) -> None:
    user = str(ada.user_id)
    given = await walk.go("POST", "/credits/grants", {"user": user, "amount": "10", "why": "hello"}, 201)
    assert given["balance"] == "10"
    taken = await walk.go("POST", "/credits/adjustments", {"user": user, "amount": "-3", "why": "a mistake"}, 201)
    assert taken["balance"] == "7"
    await walk.go(
        "POST", "/credits/money-grants", {"user": user, "amount": "5", "currency": "EUR", "why": "sorry"}, 201
    )
    async with walk.pool.acquire() as connection:
        paid = await insert(
            connection, "payments", user_id=ada.user_id, amount=Decimal(20), currency="EUR", status="completed", provider="manual",
            processed_at=datetime(2026, 11, 1, tzinfo=UTC),
        )  # fmt: skip
    back = await walk.go(
        "POST", "/payments/{payment_id}/refunds", {"amount": "5", "why": "sorry"}, 201, payment_id=paid["id"]
    )
    assert (back["status"], back["left"]) == ("completed", "15")
    issued = await walk.go("POST", "/invoice-runs/{month}", {}, month="2026-10")
    assert issued == {"month": "2026-10", "state": "done", "invoices": 0, "failures": 0}


async def walk_corrections(walk: Walk) -> None:
    desk = Desk(walk.pool)
    await make_price(walk.pool, model="noted", per_1k=("1", "1", "1"))
    customer = await make_customer(walk.pool)
    await desk.use(usage(customer.subscription_id, model="noted", request_tokens=10_000))
    number = (await desk.close(only_user=customer.user_id)).invoices[0].number
    disputed = await walk.go("POST", "/invoices/{reference}/dispute", {"why": "a load test"}, reference=number)
    assert (disputed["number"], disputed["dispute_reason"]) == (number, "a load test")
    settled = await walk.go("POST", "/invoices/{reference}/dispute/settle", {"why": "agreed"}, reference=number)
    assert settled["disputed_at"] is None
    wish = {"lines": [{"position": 1, "amount": "4"}], "why": "a load test"}
    note = await walk.go("POST", "/invoices/{reference}/credit-notes", wish, 201, reference=number)
    assert (note["subtotal"], note["invoice_number"], note["kind"]) == ("4", number, "correction")


async def walk_repair(walk: Walk, ada: Customer) -> None:
    first, second = [await quarantine(walk.pool, offset, ada.subscription_id) for offset in range(2)]
    replayed = await walk.go("POST", "/quarantine/replay", {"ids": [str(first)], "why": "a mended gateway"})
    assert (replayed["stored"], replayed["refused_again"]) == (1, {})
    assert await walk.pool.fetchval("SELECT request_id FROM usage_logs") == "req-0"
    discarded = await walk.go("POST", "/quarantine/discard", {"reason": "invalid_value", "why": "a test"})
    assert discarded == {"discarded": 1}
    assert await walk.pool.fetchval("SELECT resolved_why FROM quarantined_events WHERE id = $1", second) == "a test"
    async with walk.pool.acquire() as connection:
        row = await insert(
            connection, "held_events", id=uuid7(), reason="unknown_subscription", subscription_id=uuid7(), occurred_at=datetime.now(UTC),
            cluster="main", topic="usage.events", partition=0, epoch=1, record_offset=7, record_value=b"{}", batch_id=uuid7(),
        )  # fmt: skip
    assert await walk.go("POST", "/held/expire", {"ids": [str(row["id"])], "why": "never came"}) == {"expired": 1}


async def quarantine(pool: Pool, offset: int, subscription_id: UUID) -> UUID:
    """Put a record into quarantine that ingest would accept by now."""
    event = {
        "specversion": "1.0", "id": f"req-{offset}", "source": "/gateways/test", "type": "tallystick.usage.v1",
        "time": (datetime.now(UTC) - timedelta(hours=1)).isoformat(), "subject": str(subscription_id),
        "data": {"model": "gpt-4o", "request_tokens": 1, "response_tokens": 2},
    }  # fmt: skip
    async with pool.acquire() as connection:
        row = await insert(
            connection, "quarantined_events", id=uuid7(), reason="invalid_value", detail="a field", cluster="main", topic="usage.events",
            partition=0, epoch=1, record_offset=offset, record_value=json.dumps(event).encode(), batch_id=uuid7(),
        )  # fmt: skip
    return UUID(int=row["id"].int)


# Who may not


async def test_only_administrators_get_in_and_finance_where_it_is_about_money(
    app: FastAPI, client: httpx.AsyncClient, facts: Facts
) -> None:
    ada, gateway, fay = [await facts.customer(*roles_) for roles_ in ((), ("service",), ("finance",))]
    problems, tried = [], 0
    for method, template in routes(app):
        if not template.startswith(ADMIN):
            continue
        tried += 1
        money = template.removeprefix(ADMIN).startswith(MONEY)
        url = (
            template.replace("{level}", "eco")
            .replace("{model_id}", "gpt")
            .replace("{name}", "x")
            .replace("{plan_id}", "x")
            .replace("{reference}", "INV-1999-000001")
        )
        for parameter in ("user", "subscription", "price", "payment", "record", "event", "note", "session"):
            url = url.replace(f"{{{parameter}_id}}", str(uuid7()))
        for who, right in ((None, 401), (ada, 403), (gateway, 403), (fay, None if money else 403)):
            answer = await client.request(method, url, headers=who.headers if who else {}, json={})
            if (answer.status_code != right) if right else answer.status_code in (401, 403):
                problems.append(f"{method} {url}: {answer.status_code}, not {right}")
    assert tried > 50
    assert problems == []


# What is refused


REFUSALS: Final[list[tuple[str, str, Any, int, str]]] = [
    ("POST", "/users", {"email": "nobody"}, 422, "body.email"),
    ("POST", "/users", {"email": "a@example.com", "role": "admin"}, 422, "role"),
    ("POST", "/users", {"email": "a@example.com", "roles": ["king"]}, 422, "roles"),
    ("POST", "/subscriptions", {"user": "nobody@example.com", "plan": "basic"}, 409, "there is no user"),
    ("POST", "/subscriptions", {"user": "ADMIN", "plan": "basic", "model": "gpt-4o"}, 409, "name one of them"),
    ("POST", f"/subscriptions/{uuid7()}/pause", {}, 404, "there is no subscription"),
    ("POST", f"/subscriptions/{uuid7()}/cancel", {"at": "2036-01-01T00:00:00"}, 422, "timezone"),
    ("PUT", "/models/x", {"name": "x", "provider": "p", "input_price_per_1k": 0.5}, 422, "as a string"),
    ("POST", "/prices", {"prices": [{"model": "x", "tool": "y", "currency": "EUR"}]}, 422, "exactly one of"),
    ("POST", "/prices", {"prices": [{"model": "x", "currency": "EUR", "valid_from": "2036-01-01T00:30:00Z"}]}, 422, "whole UTC hours"),
    ("POST", "/prices", {"prices": [{"model": "unknown", "currency": "EUR"}]}, 422, "there is no model unknown"),
    ("POST", "/prices", {"prices": [{"model": "x", "currency": "XXX"}]}, 422, "nobody is billed in XXX"),
    ("POST", "/prices/import-litellm", {"m": {"litellm_provider": "p", "input_cost_per_token": 1}}, 422, "nobody is billed in USD"),
    ("POST", f"/prices/{uuid7()}/end", {"at": LATER}, 404, "there is no price"),
    ("POST", "/plans", {"id": "p", "name": "P", "amount": "1", "currency": "EUR", "meters": [{"x": 1}]}, 422, ""),
    ("POST", "/plans", {"id": "basic", "name": "B", "amount": "1", "currency": "EUR", "valid_from": "2020-01-01T00:00:00Z"}, 422, "past"),
    ("POST", "/quarantine/replay", {"why": "x"}, 422, "say which records"),
    ("POST", "/quarantine/discard", {"why": "x", "reason": "bad luck"}, 422, "there is no reason"),
    ("POST", "/quarantine/discard", {"why": "x", "ids": [str(uuid7())]}, 404, "not in quarantine"),
    ("POST", "/held/expire", {"why": "x", "ids": [str(uuid7())]}, 404, "never held"),
    ("POST", "/jobs/nothing/run", {}, 404, "there is no job"),
    ("POST", "/jobs/close-period/run", {"at": LATER}, 409, "has not come yet"),
    ("POST", f"/users/{uuid7()}/notes", {"note": "x"}, 404, "there is no user"),
    ("PATCH", "/users/ADMIN", {"roles": ["user"]}, 409, "only active administrator"),
    ("PATCH", "/users/ADMIN", {"full_name": "x\x00"}, 422, "cannot be stored"),
    ("DELETE", f"/sessions/{uuid7()}", None, 404, "there is no session"),
]  # fmt: skip
"""Method, path, body, status and what is said. ADMIN stands for the id of who asks."""


async def test_what_cannot_be_is_refused_with_the_reason(client: httpx.AsyncClient, facts: Facts) -> None:
    admin, problems = await facts.customer("admin"), []
    headers = {**admin.headers, "Content-Type": "application/json"}
    for method, path, body, status, said in REFUSALS:
        url, content = (text.replace("ADMIN", str(admin.user_id)) for text in (ADMIN + path, json.dumps(body)))
        answer = await client.request(method, url, content=content, headers=headers)
        if (
            answer.status_code != status
            or said not in answer.text
            or "problem+json" not in answer.headers["content-type"]
        ):
            problems.append(f"{method} {path} {content}: {answer.text}")
    assert problems == []


async def test_a_step_that_there_is_not_says_why(client: httpx.AsyncClient, facts: Facts, database_pool: Pool) -> None:
    ada, admin = await facts.customer(), await facts.customer("admin")
    url = f"{ADMIN}/subscriptions/{ada.subscription_id}"
    answer = await client.post(f"{url}/resume", json={}, headers=admin.headers)
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:tallystick:problem:conflict")
    assert "only a paused one is resumed" in answer.json()["detail"]
    both = await client.post(f"{url}/cancel", json={"at": LATER, "at_period_end": True}, headers=admin.headers)
    assert (both.status_code, both.json()["detail"]) == (422, "at and at_period_end exclude each other: choose one")
    async with database_pool.acquire() as connection:
        await make_subscription(connection, ada.user_id, model_id=await make_model(connection))
    unknown = await client.post(f"{url}/change-plan", json={"plan": "gold"}, headers=admin.headers)
    assert "there is no plan gold" in unknown.json()["detail"]
