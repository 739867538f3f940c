"""Lineages: what each project calls and does with the tensors of a Mixer."""
