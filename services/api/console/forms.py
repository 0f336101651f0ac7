"""Forms: what was typed, what is wrong with it beside each field, and the key that makes a second click harmless."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ValidationError

from services.api.console.wording import N_
from services.api.problems import MALFORMED, Problem
from shared.ids import uuid7

M = TypeVar("M", bound=BaseModel)

MOST_FIELDS: Final = 200
KEY_FIELD: Final = "idempotency_key"
_MESSAGES: Final = {
    "missing": N_("Please fill this in."),
    "string_too_short": N_("Please fill this in."),
    "int_parsing": N_("Please write a whole number."),
    "decimal_parsing": N_("Please write a number, such as 12.50."),
    "uuid_parsing": N_("Please choose one."),
    "greater_than_equal": N_("This is too small."),
    "greater_than": N_("This is too small."),
    "less_than_equal": N_("This is too large."),
    "string_too_long": N_("This is too long."),
}
"""What people are told, by the type of a validation error; others keep the text of the API."""


@dataclass(slots=True)
class Form:
    """The fields of a form as text, and errors by field; `problem` is what is wrong with the whole."""

    values: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def fresh(cls, **values: Any) -> Form:
        """Return a form that is shown for the first time."""
        return cls({KEY_FIELD: str(uuid7()), **{name: str(value) for name, value in values.items()}})

    @property
    def key(self) -> str:
        """The key under which what the form asks for is done once, however often it is sent."""
        key = self.values.get(KEY_FIELD, "")
        if not 1 <= len(key) <= 100 or not key.isascii() or not key.isprintable():
            raise Problem(MALFORMED, "this form lacks its key: load the page again")
        return key

    def read_into(self, model: type[M], **given: Any) -> M | None:
        """Return the fields as a request of the API, with those that are `given`; None where one is wrong: `errors` has them then."""
        known = {name: value for name, value in self.values.items() if name in model.model_fields and value != ""}
        try:
            return model.model_validate({**known, **given})
        except ValidationError as error:
            for each in error.errors():
                name = str(each["loc"][0]) if each["loc"] else ""
                self.errors[name] = _MESSAGES.get(each["type"], each["msg"].removeprefix("Value error, "))
            return None

    def refuse(self, problem: Problem) -> None:
        """Keep what the API said against it: beside the fields that it names, else above the form."""
        for each in problem.errors or ():
            self.errors[str(each["field"]).rpartition(".")[2]] = str(each["message"])
        field_, colon, said = problem.detail.partition(": ")
        if colon and field_ in self.values:
            self.errors.setdefault(field_, said)
        elif not self.errors:
            self.problem = problem.detail


async def read_form(request: Request) -> Form:
    """Read the form that was sent: the same at each call for a request. Raises `Problem` for what is none."""
    kept = request.scope["state"]
    if "console_form" not in kept:
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise Problem(MALFORMED, "this is no form")
        try:
            pairs = parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError:
            raise Problem(MALFORMED, "this form cannot be read") from None
        kept["console_form"] = Form({name: value.strip() for name, value in pairs})
    return cast("Form", kept["console_form"])
