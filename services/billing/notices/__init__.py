"""Notices: alerts that users are told once for each cause, and webhooks by which events leave by HTTP."""
