"""Attacks on a live server, one kind a file; `benchmarks/attack.py` runs them."""
