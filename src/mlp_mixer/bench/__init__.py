"""Measure our networks and their peers in one run.

All have the same weights and the same images, and take turns, so that they see the same
machine.
"""
