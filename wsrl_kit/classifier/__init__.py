"""The reward classifier."""
