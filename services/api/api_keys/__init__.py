"""API keys over HTTP: of one's own subscriptions, and for administrators of all."""
