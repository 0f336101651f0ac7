"""`tallystick user`, as an operator types it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from services.accounts import passwords
from services.cli.main import run
from shared.ids import uuid7
from tests.integration.test_key_command import within

Type = Callable[..., tuple[int, str, str]]
PASSWORD = "correct horse battery staple"


@pytest.fixture
def tallystick(ingest_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Type a command, with `stdin` on standard input; returns its exit code and what it prints."""
    monkeypatch.setenv("DATABASE_URL", ingest_database)

    def command(*words: str, stdin: str = "") -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run(words)
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def email() -> str:
    return f"{uuid7().hex}@example.com"


def user(database: str, email: str) -> Any:
    return within(database, lambda c: c.fetchrow("SELECT * FROM users WHERE email = $1", email))


def test_an_installation_gets_its_first_administrator(tallystick: Type, email: str, ingest_database: str) -> None:
    code, out, err = tallystick(
        "user",
        "add",
        email,
        "--role",
        "admin",
        "--role",
        "finance",
        "--password-stdin",
        "--by",
        "root",
        stdin=PASSWORD + "\n",
    )
    assert (code, err) == (0, "")
    assert "with the roles user, admin, finance" in out
    row = user(ingest_database, email)
    assert row["roles"] == ["user", "admin", "finance"]
    assert passwords.matches(PASSWORD, row["password_hash"])
    assert (row["oauth_provider"], row["oauth_id"]) == (None, None)
    assert email in tallystick("user", "list", "--role", "admin", "--limit", "100000")[1]


def test_a_password_is_never_an_argument_and_never_guessed(tallystick: Type, email: str) -> None:
    code, _, err = tallystick("user", "add", email)
    assert (code, "send it to --password-stdin" in err) == (2, True)
    code, _, err = tallystick("user", "add", email, "--password", PASSWORD)
    assert (code, "No such option" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (("--password-stdin",), "short\n", "a password has 12 to 1,024 characters"),
        (("--no-password", "--role", "king"), "", "there is no role 'king'"),
        (("--subject", "x"), "", "give both the identity provider and the subject"),
    ],
)
def test_what_cannot_be_is_said(tallystick: Type, email: str, words: tuple[str, ...], stdin: str, said: str) -> None:
    code, _, err = tallystick("user", "add", email, *words, stdin=stdin)
    assert (code, said in err) == (2, True), err


def test_nobody_is_there_twice(tallystick: Type, email: str) -> None:
    assert tallystick("user", "add", email, "--no-password")[0] == 0
    code, _, err = tallystick("user", "add", email.upper(), "--no-password")
    assert (code, "already" in err) == (2, True)
    assert "is not an e-mail address" in tallystick("user", "add", "ada", "--no-password")[2]


def test_a_new_password_ends_sessions(tallystick: Type, email: str, ingest_database: str) -> None:
    tallystick("user", "add", email, "--no-password")

    async def log_in(connection: asyncpg.Connection) -> None:
        await connection.execute(
            """INSERT INTO sessions (user_id, family, access_token, refresh_token, access_expires_at, expires_at, logged_in_at)
               SELECT id, gen_random_uuid(), id::text, id::text, now() + interval '1 h', now() + interval '1 d', now() FROM users WHERE email = $1""",
            email,
        )

    within(ingest_database, log_in)
    code, out, _ = tallystick("user", "password", email, "--password-stdin", stdin=PASSWORD)
    assert (code, "no session any more" in out) == (0, True)
    row = user(ingest_database, email)
    assert passwords.matches(PASSWORD, row["password_hash"])
    assert (
        within(ingest_database, lambda c: c.fetchval("SELECT count(*) FROM sessions WHERE user_id = $1", row["id"]))
        == 0
    )


def test_roles_come_and_go_and_make_tokens_stale(tallystick: Type, email: str, ingest_database: str) -> None:
    tallystick("user", "add", email, "--no-password")
    before = user(ingest_database, email)["permissions_updated_at"]
    assert tallystick("user", "roles", email, "--add", "service", "--add", "finance")[1] == "user, finance, service\n"
    assert tallystick("user", "roles", email, "--remove", "service")[1] == "user, finance\n"
    assert tallystick("user", "roles", email)[1] == "user, finance\n"
    assert user(ingest_database, email)["permissions_updated_at"] > before
    assert "everybody is a user" in tallystick("user", "roles", email, "--remove", "user")[2]


def test_a_deactivated_user_is_one_that_can_come_back(tallystick: Type, email: str, ingest_database: str) -> None:
    tallystick("user", "add", email, "--no-password")
    assert tallystick("user", "deactivate", email)[1] == f"user {email} is deactivated\n"
    assert tallystick("user", "deactivate", email)[1] == f"user {email} was already deactivated\n"
    assert user(ingest_database, email)["is_active"] is False
    assert tallystick("user", "activate", email)[1] == f"user {email} is active\n"


def test_a_subject_of_an_identity_provider_is_one_user(tallystick: Type, email: str) -> None:
    other, subject = f"{uuid7().hex}@example.com", uuid7().hex
    tallystick("user", "add", email, "--provider", "keycloak", "--subject", subject)
    tallystick("user", "add", other, "--no-password")
    code, _, err = tallystick("user", "link", other, "--provider", "keycloak", "--subject", subject)
    assert (code, "is another user already" in err) == (2, True)
    assert tallystick("user", "link", other, "--provider", "keycloak", "--subject", uuid7().hex)[0] == 0
    listed = json.loads(tallystick("user", "list", "--json", "--limit", "100000")[1])
    assert {found["email"]: found["oauth_provider"] for found in listed}[other] == "keycloak"
