"""Offline data."""
