"""Environments by name, with scripts and data collection."""
