"""Offline warmup, fine-tuning, evaluation and the ablation, as generators of events and the jobs that consume them."""
