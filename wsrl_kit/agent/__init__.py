"""Weighted SAC: networks and pure update functions. Independent of `WSRLConfig`."""
