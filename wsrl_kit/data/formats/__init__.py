"""One file for each data format, and the safe readers they share."""
