"""Usage events over HTTP: judged by ingest's own rules, published, and answered once the broker has them."""
