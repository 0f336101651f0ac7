"""The HTTP API: a thin shell. HTTP comes in, a capability's function is called, HTTP goes out."""
