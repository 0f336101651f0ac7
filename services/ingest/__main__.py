"""`python -m services.ingest`: one ingest worker."""

from services.ingest.app import build
from services.ingest.settings import Settings
from shared.worker import main

main("ingest", Settings, build, default_port=9101)
