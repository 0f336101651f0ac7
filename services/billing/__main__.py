"""`python -m services.billing`: one billing worker."""

from services.billing.app import build
from services.billing.settings import Settings
from shared.worker import main

main("billing", Settings, build, default_port=9103)
