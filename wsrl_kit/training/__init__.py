"""Offline warmup and fine-tuning as generators of events, evaluation, and the jobs that notebooks call."""
