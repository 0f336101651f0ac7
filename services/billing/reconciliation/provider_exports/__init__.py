"""Providers' usage exports: what they say that we used, compared with what we recorded. An operator's command, no work of the worker."""
