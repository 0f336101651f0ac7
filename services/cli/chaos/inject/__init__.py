"""How each class of fault is brought about. An injection ends when its cause has: what remains is to recover."""

from services.cli.chaos.inject.all_classes import inject

__all__ = ["inject"]
