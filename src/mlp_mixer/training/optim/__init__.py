"""Optimisers, learning-rate schedules and sharpness-aware minimisation."""
