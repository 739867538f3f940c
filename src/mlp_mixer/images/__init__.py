"""Pixels: decode any image to uint8, bring it to the size and range of a network,
augment it.
"""
