"""Weighted SAC with its networks: pure functions over a pytree. Knows nothing of `WSRLConfig`."""
