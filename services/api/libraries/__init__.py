"""Libraries whose documentation is served, and their versions: read by all, imported by administrators."""
