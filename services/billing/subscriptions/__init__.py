"""The life of subscriptions: begun, changed, paused, suspended and ended by people, or by a job when it is due."""
