"""HIL-SERL: checkpoints both ways, and the whole method in simulation."""
