"""`tallystick doctor`: what is wrong, or will be soon, with the database, Kafka and their settings, and what to do about it."""
