"""The console: pages for tenants, finance and operators at /console. They call what the routes of the API call, with the same rights."""
