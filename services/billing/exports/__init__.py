"""Exports: what was billed, for others' tools: FOCUS rows for FinOps, a journal for accounting."""
