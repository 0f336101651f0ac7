"""Why an amount or a count is what it is, over HTTP."""
