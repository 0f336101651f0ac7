"""Recognises tokens of an identity provider: signature, issuer, audience, times, and the user behind them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import jwt
import structlog

from services.api.auth.oidc.claims import Claims, RoleNames, Unfit, is_stale, read
from services.api.auth.oidc.keys import Keys
from services.api.auth.principal import Principal
from services.api.problems import FORBIDDEN, UNAUTHENTICATED, Problem
from shared.clock import Clock
from shared.ids import uuid7
from shared.postgres import Pool
from shared.sql import Queries

log = structlog.get_logger("api.auth")
_SQL = Queries.load("services.api.auth")

MOST_CHARACTERS: Final = 16_384


@dataclass(frozen=True, slots=True)
class OidcTokens:
    """The tokens of one issuer. `provider` is what users have as `oauth_provider`; `create_users` makes one at their first login."""

    pool: Pool
    clock: Clock
    keys: Keys
    issuer: str
    audience: str
    algorithms: Collection[str]
    leeway: timedelta
    names: RoleNames
    provider: str
    create_users: bool

    async def recognise(self, token: str) -> Principal | None:
        """Return whom a token stands for, None if it is not valid here.

        Raises `Problem` for a valid token of somebody who has no account, whose account is deactivated, or whose roles have changed since;
        `ServiceUnavailable` while there is no key to check it with.
        """
        try:
            claims = read(await self._verified(token), self.clock.now(), self.leeway, self.names)
        except (Unfit, jwt.PyJWTError) as error:
            log.info("token_refused", why=str(error))
            return None
        user = await self._user(claims)
        if not user["is_active"]:
            raise Problem(FORBIDDEN, "this account is deactivated: ask an administrator")
        if is_stale(claims.issued_at, user["permissions_updated_at"]):
            raise Problem(
                UNAUTHENTICATED, "the account's permissions have changed since this token was issued: get a new one"
            )
        if user["last_login_at"] is None or user["last_login_at"] < claims.issued_at:
            await self.pool.execute(_SQL["seen_at"], user["id"], claims.issued_at)
        return Principal(user["id"], user["username"], frozenset({"user", *user["roles"], *claims.roles}))

    async def _verified(self, token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature, issuer and audience are right. Raises `Unfit`, and PyJWT's errors."""
        if len(token) > MOST_CHARACTERS:
            raise Unfit("it is too long")
        header = jwt.get_unverified_header(token)
        algorithm, kid = str(header.get("alg")), header.get("kid")
        if (
            algorithm not in self.algorithms
        ):  # before a key is looked for: `none`, and HS256 with a public key as the secret
            raise Unfit(f"it is signed with {algorithm!r}")
        key = await self.keys.find(kid if isinstance(kid, str) else None)
        if key is None or not key.fits(algorithm):
            raise Unfit("it is signed with a key that the issuer does not have")
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            issuer=self.issuer,
            audience=self.audience,
            options={
                "require": ["exp", "iat", "sub", "iss", "aud"],
                # By our clock, in claims.py.
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
        return claims

    async def _user(self, claims: Claims) -> Any:
        user = await self.pool.fetchrow(_SQL["user_of_provider"], self.provider, claims.subject, timeout=3)
        if user is None and self.create_users and claims.email is not None:
            await self.pool.execute(
                _SQL["make_user_of_provider"], uuid7(), self.provider, claims.subject, claims.email, claims.name, claims.full_name,
                claims.issued_at,
            )  # fmt: skip
            user = await self.pool.fetchrow(_SQL["user_of_provider"], self.provider, claims.subject, timeout=3)
        if user is None:
            log.warning("login_without_account", provider=self.provider, subject=claims.subject)
            raise Problem(
                FORBIDDEN,
                f"there is no account for '{claims.subject}' of {self.provider}: ask an administrator for one, or to link yours",
            )
        return user
