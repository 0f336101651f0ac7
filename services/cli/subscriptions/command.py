"""`tallystick subscription`: begin, change and end subscriptions, and see why one is as it is."""

from services.cli.subscriptions import beginning, changing
from services.cli.subscriptions.shared import app

__all__ = ["app", "beginning", "changing"]  # importing them puts their commands into the group
