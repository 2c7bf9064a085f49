"""A robot behind HIL-SERL's HTTP server: environment, client, cameras, the human's pad, the simulated twin."""
