"""VAT numbers and IBANs: what can be right is accepted as people write it, what cannot is refused with the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.invoices.vat import InvalidIdentifier, parse_iban, parse_vat_id

VALID = [
    "ATU13585627", "BE0428759497", "CHE107787577MWST", "DE136695976", "DK13585628", "EL094259216", "FI20774740", "FR40303265045",
    "FR23334175221", "GB980780684", "IT00743110157", "LU15027442", "NL004495445B01", "NO995525828MVA", "PL8567346215", "PT501964843",
    "SE123456789701", "ESB58378431", "IE6433435F", "HR33392005961",
]  # fmt: skip


@pytest.mark.parametrize("number", VALID)
def test_valid_numbers_are_accepted_however_they_are_spaced(number: str) -> None:
    assert parse_vat_id(number) == number
    assert parse_vat_id(f" {number[:2].lower()} {number[2:5]}.{number[5:]} ") == number


@pytest.mark.parametrize("number", [n for n in VALID if n[:2] not in ("ES", "IE", "CH", "NO", "NL")])
def test_a_wrong_last_digit_is_noticed(number: str) -> None:
    last = int(number[-1]) if number[:2] not in ("SE",) else int(number[-3])
    place = len(number) - (3 if number[:2] == "SE" else 1)
    wrong = number[:place] + str((last + 1) % 10) + number[place + 1 :]
    with pytest.raises(InvalidIdentifier, match="check digit"):
        parse_vat_id(wrong)


def test_a_number_of_another_country_is_refused_and_greece_is_el() -> None:
    with pytest.raises(InvalidIdentifier, match="is of DE, the address is in FR"):
        parse_vat_id("DE136695976", "FR")
    assert parse_vat_id("EL 094259216", "GR") == "EL094259216"


@pytest.mark.parametrize("text", ["", "136695976", "US123456789", "DE13669597", "DE1366959760", "FRIO303265045", "ZZ1"])
def test_what_is_no_vat_number_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_vat_id(text)


@given(st.text(max_size=20))
def test_any_text_is_accepted_or_refused_with_a_reason(text: str) -> None:
    try:
        parsed = parse_vat_id(text)
    except InvalidIdentifier as refusal:
        assert str(refusal)
    else:
        assert parse_vat_id(parsed) == parsed


def test_an_iban_has_its_check_digits() -> None:
    assert parse_iban("de89 3704 0044 0532 0130 00") == "DE89370400440532013000"
    with pytest.raises(InvalidIdentifier, match="check digits"):
        parse_iban("DE89370400440532013001")
