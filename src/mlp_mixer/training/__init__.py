"""From a configuration and a data source to a trained checkpoint, resumable at any
step.
"""

from .config import TrainConfig
from .loop import train
from .prepare import Run, prepare
from .stop import Interrupted

__all__ = ["Interrupted", "Run", "TrainConfig", "prepare", "train"]
