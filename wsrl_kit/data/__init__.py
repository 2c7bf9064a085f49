"""Readers and writers of robot data, the dataset they fill, its weights, and what of it is kept online."""
