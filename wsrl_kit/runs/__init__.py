"""A run's folder: lock, parameters, metrics, status, checkpoint, progress."""
