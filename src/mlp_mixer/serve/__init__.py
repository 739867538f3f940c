"""A checkpoint behind HTTP: an API that computes the pictures of all clients together,
and a page for people.
"""

from .app import create_app
from .limits import Limits, server

__all__ = ["Limits", "create_app", "server"]
