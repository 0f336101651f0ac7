"""The months of usage_logs: made ahead, archived to files that are verified first, and restored from them."""
