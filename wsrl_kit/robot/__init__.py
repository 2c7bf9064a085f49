"""A robot server that is simulated: HIL-SERL's HTTP API in front of the MuJoCo robot."""
