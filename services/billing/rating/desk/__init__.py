"""What operators do with prices, with the rights of the owner: workers do not import it."""
