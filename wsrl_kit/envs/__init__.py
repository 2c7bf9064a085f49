"""Environments by name: the simulated robot, and every Gymnasium environment with continuous actions."""
