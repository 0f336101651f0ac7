"""Tokens of an identity provider: a real one on a socket, whose keys come and go, and everything that a token must not be."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.api.answering import problem_of
from services.api.auth.oidc.keys import ASK_AGAIN
from services.api.auth.oidc.opening import tokens_of
from services.api.auth.principal import Principal
from services.api.auth.tokens import Tokens
from services.api.problems import Problem
from services.api.settings import Settings
from shared.clock import FixedClock
from shared.errors import ConfigurationError, ServiceUnavailable
from shared.ids import uuid7
from shared.postgres import Pool
from tests.integration.api.conftest import NOW
from tests.integration.api.issuer import AUDIENCE, Issuer, private_key, running_issuer
from tests.integration.roles import API, with_role
from tests.integration.schema_facts import make_user


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as found:
        yield found


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


def made(pool: Pool, clock: FixedClock, issuer: Issuer, **changed: Any) -> Tokens:
    settings: Any = {
        "database_url": "", "kafka_bootstrap_servers": "", "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, "oidc_provider": "keycloak",
        "oidc_roles": "admin=tallystick-admins,finance=billing,service=gateway",
        "oidc_role_claims": "realm_access/roles,resource_access/tallystick/roles,groups",
    }  # fmt: skip
    return tokens_of(Settings(**{**settings, **changed}), with_role(pool, API), clock)


@pytest.fixture
def tokens(ingest_pool: Pool, clock: FixedClock, issuer: Issuer) -> Tokens:
    return made(ingest_pool, clock, issuer)


@pytest.fixture
async def subject(ingest_pool: Pool) -> str:
    """Who the issuer calls so is a user."""
    name = uuid7().hex
    async with ingest_pool.acquire() as connection:
        await make_user(connection, oauth_provider="keycloak", oauth_id=name, permissions_updated_at=NOW)
    return name


async def status(tokens: Tokens, token: str) -> int:
    """What a request with this token is answered, as far as the token goes."""
    try:
        return 200 if await tokens.recognise(token) else 401
    except (Problem, ServiceUnavailable) as error:
        problem = problem_of(error)
        assert problem is not None
        return problem.kind.status


async def test_a_token_stands_for_its_user(tokens: Tokens, issuer: Issuer, subject: str, ingest_pool: Pool) -> None:
    found = await tokens.recognise(issuer.token(NOW, sub=subject))
    row = await ingest_pool.fetchrow("SELECT * FROM users WHERE oauth_id = $1", subject)
    assert row is not None
    assert found == Principal(row["id"], row["username"], frozenset({"user"}))
    assert row["last_login_at"] == NOW


@pytest.mark.parametrize(
    ("claims", "roles"),
    [
        ({"realm_access": {"roles": ["tallystick-admins", "other"]}}, {"admin"}),
        (
            {"resource_access": {"tallystick": {"roles": ["billing"]}, "x": {"roles": ["tallystick-admins"]}}},
            {"finance"},
        ),
        ({"groups": ["/gateway"]}, {"service"}),
        ({"groups": "gateway billing"}, {"service", "finance"}),
        ({"groups": {"gateway": 1}, "realm_access": ["tallystick-admins"]}, set()),
        ({"groups": [["gateway"], 7, None]}, set()),
        ({"roles": ["admin"], "realm_access": {"roles": ["admin"]}}, set()),
    ],
    ids=["keycloak realm", "keycloak client", "openshift groups", "text", "misshapen", "no names", "not mapped"],
)
async def test_roles_follow_from_the_claims(
    tokens: Tokens, issuer: Issuer, subject: str, claims: Any, roles: set[str]
) -> None:
    found = await tokens.recognise(issuer.token(NOW, sub=subject, **claims))
    assert found is not None
    assert found.roles == {"user"} | roles


async def test_roles_of_the_row_are_added(
    tokens: Tokens, issuer: Issuer, subject: str, ingest_pool: Pool, clock: FixedClock
) -> None:
    token = issuer.token(NOW, sub=subject)
    await ingest_pool.execute("UPDATE users SET roles = '{user,finance}' WHERE oauth_id = $1", subject)
    changed = await ingest_pool.fetchval("SELECT permissions_updated_at FROM users WHERE oauth_id = $1", subject)
    clock.at = changed + timedelta(seconds=2)
    with pytest.raises(Problem, match="permissions have changed since"):
        await tokens.recognise(issuer.token(changed - timedelta(seconds=2), sub=subject))
    found = await tokens.recognise(issuer.token(clock.at, sub=subject))
    assert found is not None
    assert found.roles == {"user", "finance"}
    assert await status(tokens, token) == 401


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({"aud": "another-service"}, 401),
        ({"aud": [AUDIENCE, "another-service"]}, 200),
        ({"aud": None}, 401),
        ({"iss": "https://elsewhere.example"}, 401),
        ({"exp": int(NOW.timestamp()) - 31}, 401),
        ({"exp": int(NOW.timestamp()) - 29}, 200),
        ({"exp": None}, 401),
        ({"exp": "tomorrow"}, 401),
        ({"exp": 1e300}, 401),
        ({"iat": int(NOW.timestamp()) + 31}, 401),
        ({"iat": None}, 401),
        ({"nbf": int(NOW.timestamp()) + 60}, 401),
        ({"sub": None}, 401),
        ({"sub": "a\x00b"}, 401),
        ({"sub": ""}, 401),
        ({"typ": "ID"}, 401),
        ({"typ": "Refresh"}, 401),
    ],
    ids=str,
)
async def test_a_token_is_for_us_and_for_now(
    tokens: Tokens, issuer: Issuer, subject: str, claims: dict[str, Any], wanted: int
) -> None:
    assert await status(tokens, issuer.token(NOW, **{"sub": subject, **claims})) == wanted


def forged(issuer: Issuer, subject: str, header: dict[str, Any], signature: str = "") -> str:
    """A token with a header of one's own."""
    body = jwt.decode(issuer.token(NOW, sub=subject), options={"verify_signature": False})
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, body)]
    return ".".join([*parts, signature])


async def test_a_signature_is_the_issuers(tokens: Tokens, issuer: Issuer, subject: str) -> None:
    right = issuer.token(NOW, sub=subject)
    public = private_key("first").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = jwt.utils.force_bytes(public)
    message = forged(issuer, subject, {"alg": "HS256", "kid": "first", "typ": "JWT"}).rstrip(".")
    by_public_key = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(message.encode(), secret)
    refused = {
        "no signature": forged(issuer, subject, {"alg": "none"}),
        "no signature, with a key": forged(issuer, subject, {"alg": "None", "kid": "first"}),
        "HS256 with the public key as the secret": f"{message}.{base64.urlsafe_b64encode(by_public_key).decode().rstrip('=')}",
        "another's key of the same name": issuer.token(NOW, sub=subject, key="stranger", headers={"kid": "first"}),
        "a signature cut off": right.rsplit(".", 1)[0] + ".",
        "an algorithm that is not allowed": forged(issuer, subject, {"alg": "RS512", "kid": "first"}, "AA"),
        "the wrong kind of key": forged(issuer, subject, {"alg": "ES256", "kid": "first"}, "AA"),
        "a name that is none": forged(issuer, subject, {"alg": "RS256", "kid": ["first"]}, "AA"),
        "not JSON": "a.b.c",
        "too long": "a" * 20_000 + ".b.c",
    }
    assert await status(tokens, right) == 200
    assert {name: await status(tokens, token) for name, token in refused.items()} == dict.fromkeys(refused, 401)


async def test_keys_are_rotated(tokens: Tokens, issuer: Issuer, subject: str, clock: FixedClock) -> None:
    assert await status(tokens, issuer.token(NOW, sub=subject)) == 200
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    issuer.published = ["first", "ec-second"]
    clock.at += ASK_AGAIN
    assert await status(tokens, issuer.token(clock.at, key="ec-second", sub=subject)) == 200
    issuer.published = ["ec-second"]
    assert await status(tokens, issuer.token(clock.at, sub=subject)) == 200, "nobody has told us yet"
    clock.at += timedelta(hours=1)
    assert await status(tokens, issuer.token(clock.at, sub=subject)) == 401
    assert await status(tokens, issuer.token(clock.at, key="ec-second", sub=subject)) == 200


async def test_names_of_keys_that_there_are_not_do_not_make_us_ask_and_ask(
    tokens: Tokens, issuer: Issuer, subject: str, clock: FixedClock
) -> None:
    for number in range(20):
        assert await status(tokens, issuer.token(NOW, key="stranger", sub=subject, headers={"kid": str(number)})) == 401
    assert issuer.asked.count("/keys") == 1
    clock.at += ASK_AGAIN
    assert await status(tokens, issuer.token(NOW, key="stranger", sub=subject)) == 401
    assert issuer.asked.count("/keys") == 2


async def test_old_keys_serve_while_the_issuer_is_away(
    ingest_pool: Pool, issuer: Issuer, subject: str, clock: FixedClock
) -> None:
    known, new = (made(ingest_pool, clock, issuer) for _ in range(2))
    assert await status(known, issuer.token(NOW, sub=subject)) == 200
    issuer.away = True
    clock.at += timedelta(days=2)
    assert await status(known, issuer.token(clock.at, sub=subject)) == 200
    assert await status(new, issuer.token(clock.at, sub=subject)) == 503, "it has never had a key to check with"
    issuer.away = False
    clock.at += ASK_AGAIN
    assert await status(new, issuer.token(clock.at, sub=subject)) == 200


async def test_an_address_for_keys_makes_discovery_needless(
    ingest_pool: Pool, issuer: Issuer, subject: str, clock: FixedClock
) -> None:
    tokens = made(ingest_pool, clock, issuer, oidc_jwks_url=f"{issuer.url}/keys")
    assert await status(tokens, issuer.token(NOW, sub=subject)) == 200
    assert issuer.asked == ["/keys"]


async def test_who_has_no_account_gets_one_where_that_is_allowed(
    ingest_pool: Pool, issuer: Issuer, clock: FixedClock
) -> None:
    closed, opened = (made(ingest_pool, clock, issuer, oidc_create_users=allowed) for allowed in (False, True))
    name = uuid7().hex
    claims = {"sub": name, "email": f"{name}@example.com", "preferred_username": name, "name": "Ada Lovelace"}
    assert await status(closed, issuer.token(NOW, **claims)) == 403
    unfit: Any
    for unfit in ({"email": None}, {"email_verified": False}):
        assert await status(opened, issuer.token(NOW, **{**claims, **unfit})) == 403
    found = await opened.recognise(issuer.token(NOW, groups=["tallystick-admins"], **claims))
    assert found is not None
    assert found.roles == {"user", "admin"}
    row = await ingest_pool.fetchrow("SELECT * FROM users WHERE oauth_id = $1", name)
    assert row is not None
    assert (row["username"], row["full_name"], row["roles"]) == (name, "Ada Lovelace", ["user"]), (
        "roles stay the issuer's"
    )
    assert await status(closed, issuer.token(NOW, **claims)) == 200


async def test_an_address_that_is_somebodys_is_not_taken_over(
    ingest_pool: Pool, issuer: Issuer, clock: FixedClock
) -> None:
    """Who controls an address at the identity provider is not yet who has the account: an administrator links it."""
    name = uuid7().hex
    async with ingest_pool.acquire() as connection:
        await make_user(connection, email=f"{name}@example.com", roles=["user", "admin"])
    opened = made(ingest_pool, clock, issuer, oidc_create_users=True)
    assert await status(opened, issuer.token(NOW, sub=name, email=f"{name}@example.com")) == 403


async def test_a_deactivated_user_is_refused(tokens: Tokens, issuer: Issuer, subject: str, ingest_pool: Pool) -> None:
    await ingest_pool.execute("UPDATE users SET is_active = false WHERE oauth_id = $1", subject)
    with pytest.raises(Problem, match="deactivated"):
        await tokens.recognise(issuer.token(NOW, sub=subject))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"oidc_audience": ""}, "TALLYSTICK_OIDC_AUDIENCE is missing"),
        ({"oidc_issuer": "http://keycloak.example/realms/x"}, "is not https"),
        ({"oidc_algorithms": "RS256,HS256"}, "'HS256' is not among"),
        ({"oidc_algorithms": "none"}, "'none' is not among"),
        ({"oidc_roles": "king=admins"}, "'king=admins' is not like admin=NAME"),
        ({"oidc_ca_file": "/nowhere.pem"}, "TALLYSTICK_OIDC_CA_FILE cannot be read"),
    ],
)
async def test_settings_that_would_let_anybody_in_are_refused(
    ingest_pool: Pool, issuer: Issuer, clock: FixedClock, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        made(ingest_pool, clock, issuer, **changed)
