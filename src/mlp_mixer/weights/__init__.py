"""Weights as files: every lineage's in and out, and the native checkpoint in the
middle.
"""

from .catalog import list_models
from .checkpoint import Checkpoint, save
from .loading import load, read_weights

__all__ = ["Checkpoint", "list_models", "load", "read_weights", "save"]
