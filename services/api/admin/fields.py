"""Fields that bodies of administrators share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Named = Annotated[str, Field(min_length=1, max_length=320, description="Id or e-mail address.")]
Why = Annotated[
    str, Field(min_length=1, max_length=1_000, description="Why, for the audit trail and the customer's history.")
]
MaybeWhy = Annotated[str, Field(max_length=1_000, description="Why, for the audit trail.")]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", examples=["EUR"])]
Id = Annotated[str, Field(min_length=1, max_length=200)]
"""The id of a model, a plan, a library: text."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
