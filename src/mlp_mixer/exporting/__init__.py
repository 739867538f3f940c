"""Export a checkpoint for other runtimes.

An export is written to a temporary place, run in its own runtime, compared with torch,
and only then moved to the place where it was asked for.
"""

from .run import export

__all__ = ["export"]
