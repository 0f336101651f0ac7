"""Who asks: API keys, tokens of an identity provider, sessions of local users; and what each may do."""
