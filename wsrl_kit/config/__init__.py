"""Parameters of runs and notebooks, presets, and schedules."""
