"""Reservations: a gateway reserves requests, tokens and credits before a call; the usage event of the call settles it."""

from services.api.reservations.asking import Answer, Ask, Remaining, Reservation, digest_of
from services.api.reservations.reservations import Reservations
from services.api.reservations.reserving import Reserver

__all__ = ["Answer", "Ask", "Remaining", "Reservation", "Reservations", "Reserver", "digest_of"]
