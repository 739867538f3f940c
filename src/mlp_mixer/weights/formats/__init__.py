"""File formats: from bytes to named tensors, without knowledge of Mixers."""
