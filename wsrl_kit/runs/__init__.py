"""A run's folder, and the loops that write to it."""
