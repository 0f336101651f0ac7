"""Keys at providers over HTTP: stored, listed by their last characters, replaced, deleted; never returned."""
