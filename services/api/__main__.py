"""`python -m services.api`: one process of the HTTP API."""

from services.api.serving import main

main()
