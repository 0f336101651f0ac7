"""What there is over HTTP: models, prices, plans, power levels, and how the providers do."""
