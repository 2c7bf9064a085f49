"""Neural networks: the only place that knows flax.linen."""
