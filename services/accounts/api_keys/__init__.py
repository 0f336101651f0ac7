"""API keys: made, shown once, replaced with an overlap, revoked. Each change is in the audit trail, by a trigger."""
