"""Pixels: decode any image to uint8, fit it to a network, augment it."""
