"""What producers of usage events import: the client, its disk spool, the LiteLLM plug-in, the OpenTelemetry mapping.

Needs nothing but the standard library, and knows neither `shared` nor the services: docs/decisions/0027-producers-package.md.
"""
