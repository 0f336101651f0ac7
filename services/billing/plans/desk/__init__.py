"""What operators do with plans, with the rights of the owner: workers do not import it."""
