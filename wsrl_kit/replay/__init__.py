"""Replay as pytrees and pure functions: storage, samplers (uniform, prioritized), and the offline/online mixture."""
