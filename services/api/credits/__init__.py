"""Prepaid credits over HTTP."""
