"""Replay in host memory: rings of rows, uniform or prioritized, and the offline/online mixture."""
