"""Lineages: the tensor names, layouts and evaluation transforms of every project that has published Mixers."""
