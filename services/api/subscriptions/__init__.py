"""Subscriptions and quotas over HTTP."""
