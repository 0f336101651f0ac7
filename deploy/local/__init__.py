"""A real Kafka and a real PostgreSQL on this machine, for a demo, tests and development. Knows nothing of what is done with them."""
