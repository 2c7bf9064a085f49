"""Replay: storage, samplers (uniform, prioritized), and the offline/online mixture."""
