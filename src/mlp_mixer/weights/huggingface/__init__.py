"""Weights on the Hugging Face hub, and folders in its convention."""
