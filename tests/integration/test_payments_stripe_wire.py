"""What goes over the wire to Stripe, and what its errors mean: the official library against a server that says what a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest

from services.billing.payments.provider import (
    ChargeRequest,
    CheckoutRequest,
    NotConfigured,
    Person,
    ProviderRefused,
    ProviderUnavailable,
    RefundRequest,
)
from services.billing.payments.stripe_provider import StripeProvider
from tests.integration.payment_facts import intent, refund_object

ID = UUID("0190f5a0-0000-7000-8000-000000000001")
CHARGE = ChargeRequest(ID, "cus_1", "pm_1", Decimal("12.34"), "USD", "Invoice")


@dataclass(slots=True)
class Wire:
    """Answers in turn what it was told, the last for ever; remembers (method, path, form, idempotency key)."""

    url: str = ""
    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], str | None]] = field(default_factory=list)

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.answers.append((status, body))


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            form = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            fields = {name: texts[0] for name, texts in parse_qs(form).items()}
            wire.requests.append((self.command, self.path, fields, self.headers.get("Idempotency-Key")))
            status, body = wire.answers.pop(0) if len(wire.answers) > 1 else wire.answers[0]
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Stripe-Should-Retry", "false")
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 (http.server's name)

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    wire.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield wire
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stripe(wire: Wire) -> StripeProvider:
    return StripeProvider("sk_test_made_up", [], api_base=wire.url)


def error(kind: str, **facts: Any) -> dict[str, Any]:
    return {"error": {"type": kind, "message": "No.", **facts}}


async def test_a_charge_names_our_payment_and_has_a_key_of_its_own(wire: Wire, stripe: StripeProvider) -> None:
    wire.answer(200, intent("pi_1", ID, 1234))
    first, second = await stripe.charge(CHARGE), await stripe.charge(CHARGE)
    assert first == second
    assert (first.status, first.payment_id, first.amount) == ("completed", ID, Decimal("12.34"))
    method, path, fields, key = wire.requests[0]
    assert (method, path, key) == ("POST", "/v1/payment_intents", f"tallystick-charge-{ID}")
    assert wire.requests[1][3] == key, "the same charge, asked for again, is the same charge"
    expected = {
        "amount": "1234",
        "currency": "usd",
        "customer": "cus_1",
        "payment_method": "pm_1",
        "off_session": "true",
        "confirm": "true",
    }
    assert expected.items() <= fields.items()
    assert fields["metadata[tallystick_payment]"] == str(ID)


async def test_a_declined_card_is_an_answer(wire: Wire, stripe: StripeProvider) -> None:
    declined = intent("pi_1", ID, 1234, "requires_payment_method")
    wire.answer(
        402, error("card_error", code="card_declined", decline_code="insufficient_funds", payment_intent=declined)
    )
    report = await stripe.charge(CHARGE)
    assert (report.status, report.transaction_id, report.reason) == ("failed", "pi_1", "insufficient_funds: No.")


async def test_a_charge_that_the_customer_must_confirm_has_failed(wire: Wire, stripe: StripeProvider) -> None:
    wire.answer(200, intent("pi_1", ID, 1234, "requires_action"))
    report = await stripe.charge(CHARGE)
    assert (report.status, report.reason) == (
        "failed",
        "authentication_required: the bank wants the customer to confirm it",
    )


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((400, error("invalid_request_error", param="customer")), ProviderRefused, r"Stripe refuses it: No\."),
        ((400, error("idempotency_error")), ProviderRefused, "Stripe refuses it"),
        ((401, error("invalid_request_error")), NotConfigured, "check TALLYSTICK_STRIPE_API_KEY"),
        ((403, error("invalid_request_error")), NotConfigured, "check TALLYSTICK_STRIPE_API_KEY"),
        ((429, error("invalid_request_error")), ProviderUnavailable, "it is tried again"),
        ((500, error("api_error")), ProviderUnavailable, "it is tried again"),
    ],
)
async def test_what_errors_mean(
    wire: Wire, stripe: StripeProvider, answer: tuple[int, dict[str, Any]], kind: type[Exception], message: str
) -> None:
    wire.answers[:] = [answer]
    with pytest.raises(kind, match=message) as caught:
        await stripe.charge(CHARGE)
    assert "sk_test" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_nobody_there_is_unavailable(stripe: StripeProvider) -> None:
    nobody = StripeProvider("sk_test_made_up", [], api_base="http://127.0.0.1:9")
    with pytest.raises(ProviderUnavailable, match="Stripe does not answer \\(no connection\\)"):
        await nobody.create_customer(Person(ID, "ada@example.com"))


async def test_a_charge_asked_about_again_is_looked_for_before_it_is_made(wire: Wire, stripe: StripeProvider) -> None:
    again = ChargeRequest(ID, "cus_1", "pm_1", Decimal("12.34"), "USD", "Invoice", again=True)
    wire.answer(
        200,
        {"object": "list", "data": [intent("pi_0", None, 99), intent("pi_1", ID, 1234)], "has_more": False, "url": ""},
    )
    assert (await stripe.charge(again)).transaction_id == "pi_1"
    assert [request[0] for request in wire.requests] == ["GET"]
    wire.answers[:] = [
        (200, {"object": "list", "data": [], "has_more": False, "url": ""}),
        (200, intent("pi_2", ID, 1234)),
    ]
    assert (await stripe.charge(again)).transaction_id == "pi_2"


async def test_a_refund_asked_for_again_is_looked_for_before_it_is_made(wire: Wire, stripe: StripeProvider) -> None:
    request = RefundRequest(ID, "pi_1", Decimal(5), "USD", "sorry")
    made = refund_object("re_1", "pi_1", 500, metadata={"tallystick_refund": str(ID)})
    wire.answer(200, made)
    assert (await stripe.refund(request)).refund_id == ID
    assert wire.requests[0][3] == f"tallystick-refund-{ID}"
    wire.answers[:] = [(200, {"object": "list", "data": [made], "has_more": False, "url": ""})]
    again = await stripe.refund(RefundRequest(ID, "pi_1", Decimal(5), "USD", "sorry", again=True))
    assert again.provider_refund_id == "re_1"
    assert wire.requests[-1][0] == "GET"


async def test_a_page_keeps_the_card_and_names_our_payment_twice(wire: Wire, stripe: StripeProvider) -> None:
    session: dict[str, Any] = {
        "id": "cs_1", "object": "checkout.session", "url": "https://pay.example/1", "payment_status": "unpaid", "status": "open",
        "payment_intent": None, "currency": "usd", "amount_total": 1000, "metadata": {},
    }  # fmt: skip
    wire.answer(200, session)
    page = await stripe.create_checkout(
        CheckoutRequest(ID, "cus_1", Decimal(10), "USD", "Starter", "https://a.example/s", "https://a.example/c")
    )
    assert (page.id, page.url, page.transaction_id) == ("cs_1", "https://pay.example/1", None)
    fields = wire.requests[0][2]
    assert (
        fields["metadata[tallystick_payment]"] == fields["payment_intent_data[metadata][tallystick_payment]"] == str(ID)
    )
    assert fields["payment_intent_data[setup_future_usage]"] == "off_session"
    assert fields["line_items[0][price_data][unit_amount]"] == "1000"
