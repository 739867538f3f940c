"""Serve a checkpoint over HTTP: an API and a page for people.

The pictures of all clients are computed together.
"""

from .app import create_app
from .connections import listen, server
from .limits import Limits

__all__ = ["Limits", "create_app", "listen", "server"]
