"""Plans: what a subscription costs besides its usage, and what its plan makes of that usage."""
