"""Documents: invoices and credit notes as HTML, PDF and EN 16931 e-invoice, in the customer's language."""
