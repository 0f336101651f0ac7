"""Accounts: who there is, and by what they are known. No worker of its own: the API and the command line call it."""
