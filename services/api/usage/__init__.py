"""Usage over HTTP: series in the tenant's time zone, analytics, events one by one, live counters."""
