"""Users: who there is, what they may do, and how they log in. Triggers write each change to the audit trail."""
