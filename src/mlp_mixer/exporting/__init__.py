"""A checkpoint for other runtimes: written aside, answering in its own runtime as torch
does, and only then there.
"""

from .run import export

__all__ = ["export"]
