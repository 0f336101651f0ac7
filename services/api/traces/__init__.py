"""OTLP/HTTP: spans with GenAI attributes become usage events, so that an instrumented gateway needs another URL and nothing else."""
