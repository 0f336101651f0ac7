"""What operators do with subscriptions, with the rights of the owner: workers do not import it."""
