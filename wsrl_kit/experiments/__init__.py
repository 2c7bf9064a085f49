"""Many runs: arms and ablations, tuning, and the engine that runs them in parallel."""
