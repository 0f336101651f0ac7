"""VAT identification numbers and IBANs by format (pure): whether one can be right, not whether somebody has it.

Structures of the EU and Northern Ireland: European Commission, VIES FAQ, "What is the format of a VAT number?"
(https://ec.europa.eu/taxation_customs/vies/#/faq); GB: HMRC reference VATREG; CH: UID register (BFS); NO: Brønnøysund registers.
Check digits, where a few lines compute them: the national rules as collected by python-stdnum (https://arthurdejong.org/python-stdnum/).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from shared.errors import TallystickError


class InvalidIdentifier(TallystickError):
    """A VAT number or an IBAN that cannot be right; the message says what one of its country looks like."""


_STRUCTURES: Final = {
    "AT": r"U\d{8}", "BE": r"[01]\d{9}", "BG": r"\d{9,10}", "CY": r"\d{8}[A-Z]", "CZ": r"\d{8,10}", "DE": r"[1-9]\d{8}", "DK": r"\d{8}",
    "EE": r"\d{9}", "EL": r"\d{9}", "ES": r"[A-Z0-9]\d{7}[A-Z0-9]", "FI": r"\d{8}", "FR": r"[A-HJ-NP-Z0-9]{2}\d{9}", "HR": r"\d{11}",
    "HU": r"\d{8}", "IE": r"\d[A-Z0-9+*]\d{5}[A-Z]|\d{7}[A-Z]{1,2}", "IT": r"\d{11}", "LT": r"\d{9}|\d{12}", "LU": r"\d{8}", "LV": r"\d{11}",
    "MT": r"\d{8}", "NL": r"[A-Z0-9+*]{10}\d{2}", "PL": r"\d{10}", "PT": r"\d{9}", "RO": r"\d{2,10}", "SE": r"\d{12}", "SI": r"\d{8}",
    "SK": r"\d{10}", "XI": r"\d{9}|\d{12}|(GD|HA)\d{3}", "GB": r"\d{9}|\d{12}|(GD|HA)\d{3}", "CH": r"E\d{9}(MWST|TVA|IVA)?", "NO": r"\d{9}(MVA)?",
}  # fmt: skip
_PREFIXES: Final = {"GR": "EL"}
"""Greece is GR as a country and EL in its VAT numbers."""


def parse_vat_id(text: str, country: str | None = None) -> str:
    """Return a VAT number without spaces, dots and dashes, prefix included. `country` (ISO 3166) is where its holder is, if known.

    Raises `InvalidIdentifier` for an unknown prefix, another country's number, a wrong form or a wrong check digit.
    """
    number = re.sub(r"[\s.\-/]", "", text).upper()
    prefix, rest = number[:2], number[2:]
    if prefix not in _STRUCTURES:
        raise InvalidIdentifier(f"'{text}' is not a VAT number: it begins with the country, e.g. DE136695976")
    if country is not None and prefix != _PREFIXES.get(country, country) and (country, prefix) != ("GB", "XI"):
        raise InvalidIdentifier(f"VAT number {number} is of {prefix}, the address is in {country}")
    if re.fullmatch(_STRUCTURES[prefix], rest) is None:
        raise InvalidIdentifier(
            f"VAT number {number} does not have the form of {prefix}: {prefix} and then {_STRUCTURES[prefix]}"
        )
    check = _CHECKS.get(prefix)
    if check is not None and not check(rest):
        raise InvalidIdentifier(f"VAT number {number} has a wrong check digit: compare it with what the customer sent")
    return number


def parse_iban(text: str) -> str:
    """Return an IBAN without spaces. Raises `InvalidIdentifier` for a wrong form or check digit (ISO 13616, modulo 97)."""
    iban = re.sub(r"\s", "", text).upper()
    if re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", iban) is None or _modulo_97(iban[4:] + iban[:4]) != 1:
        raise InvalidIdentifier(f"'{text}' is not an IBAN: its check digits do not fit")
    return iban


def _modulo_97(text: str) -> int:
    return int("".join(str(int(c, 36)) for c in text)) % 97


def _digits(text: str) -> list[int]:
    return [int(c) for c in text]


def _weighted(text: str, weights: Sequence[int]) -> int:
    return sum(digit * weight for digit, weight in zip(_digits(text), weights, strict=True))


def _luhn(text: str) -> int:
    """Return 0 for digits whose last one is the right check digit of the others."""
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(_digits(text)))]
    return sum(doubled) % 10


def _mod_11_10(text: str) -> bool:
    check = 5
    for digit in _digits(text[:-1]):
        check = (((check or 10) * 2) % 11 + digit) % 10
    return (((check or 10) * 2) % 11 + int(text[-1])) % 10 == 1


def _french(text: str) -> bool:
    return not text[:2].isdigit() or int(text[2:] + "12") % 97 == int(text[:2])


def _greek(text: str) -> bool:
    return _weighted(text[:8], [2 ** (8 - i) for i in range(8)]) % 11 % 10 == int(text[8])


def _dutch(text: str) -> bool:
    company = text[9] == "B" and text[:9].isdigit() and _weighted(text[:9], (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0
    return company or ("+" not in text and "*" not in text and _modulo_97("NL" + text) == 1)


def _british(text: str) -> bool:
    return not text[:2].isdigit() or _weighted(text[:9], (8, 7, 6, 5, 4, 3, 2, 10, 1)) % 97 in (0, 42)


_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "AT": lambda n: (6 - _luhn(n[1:8])) % 10 == int(n[8]),
    "BE": lambda n: (int(n[:8]) + int(n[8:])) % 97 == 0,
    "CH": lambda n: _weighted(n[1:10], (5, 4, 3, 2, 7, 6, 5, 4, 1)) % 11 == 0,
    "DE": _mod_11_10,
    "DK": lambda n: _weighted(n, (2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0,
    "EL": _greek,
    "FI": lambda n: _weighted(n, (7, 9, 10, 5, 8, 4, 2, 1)) % 11 == 0,
    "FR": _french,
    "GB": _british,
    "HR": _mod_11_10,
    "IT": lambda n: _luhn(n) == 0,
    "LU": lambda n: int(n[:6]) % 89 == int(n[6:]),
    "NL": _dutch,
    "NO": lambda n: _weighted(n[:9], (3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0,
    "PL": lambda n: _weighted(n, (6, 5, 7, 2, 3, 4, 5, 6, 7, -1)) % 11 == 0,
    "PT": lambda n: (11 - _weighted(n[:8], (9, 8, 7, 6, 5, 4, 3, 2)) % 11) % 11 % 10 == int(n[8]),
    "SE": lambda n: _luhn(n[:10]) == 0,
    "XI": _british,
}
