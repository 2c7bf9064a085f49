"""Parameters of runs: `WSRLConfig`, presets of published methods, schedules."""
