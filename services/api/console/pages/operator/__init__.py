"""Pages of the console, a module for each thing."""
