"""Rebuilding: what is derived from usage_logs is computed anew, compared with what is stored, and put right."""

from services.aggregator.rebuild.differences import Difference, Findings, NegativeHour
from services.aggregator.rebuild.rebuild import Healed, heal, verify
from services.aggregator.rebuild.scope import Scope, parse_hour, widened

__all__ = ["Difference", "Findings", "Healed", "NegativeHour", "Scope", "heal", "parse_hour", "verify", "widened"]
