"""Invoices and credit notes over HTTP: as JSON, PDF, HTML and e-invoice; the running period's cost and forecast."""
