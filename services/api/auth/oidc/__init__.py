"""Tokens of an identity provider (OpenID Connect): Keycloak, OpenShift, and others that publish their keys."""
