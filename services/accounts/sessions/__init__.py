"""Sessions: local users log in with a password, and stay so by tokens that are exchanged once each."""
