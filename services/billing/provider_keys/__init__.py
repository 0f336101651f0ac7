"""What was used with own keys at providers: counted from rated usage, for the key that is the default."""
