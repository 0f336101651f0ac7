"""Invoices: a period's usage and fees become one issued invoice per customer and currency."""
