"""Keys of users at providers (bring your own key): stored encrypted, never shown again, replaced, encrypted anew while all goes on."""
