"""Offline warmup, a smooth switch to online fine-tuning, and honest ablations for robot learning."""
