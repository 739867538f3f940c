"""Weights as files: the native checkpoint, and (one floor above the networks) all that reads or writes it."""

from .catalog import list_models
from .checkpoint import Checkpoint, find_checkpoint, load, save

__all__ = ["Checkpoint", "find_checkpoint", "list_models", "load", "save"]
