"""Credits: prepaid usage becomes ledger entries, one for each user and settlement window."""
