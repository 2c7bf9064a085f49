"""Readers of data files: path -> `Recording`; `sources` chooses one by a file's content."""
