"""Us and our peers in one run: the same weights, the same images, turn by turn."""
