"""The robot: environment, client, cameras, person, and simulated server."""
