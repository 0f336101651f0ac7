"""What administrators do over HTTP, one module for each kind of thing; finance does what is about money."""
