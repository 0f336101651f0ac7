"""`python -m services.aggregator`: one aggregator worker."""

from services.aggregator.app import build
from services.aggregator.settings import Settings
from shared.worker import main

main("aggregator", Settings, build, default_port=9102)
