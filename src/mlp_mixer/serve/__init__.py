"""Serve a checkpoint over HTTP: an API and a page for people.

The pictures of all clients are computed together.
"""

from .app import create_app
from .connections import listen, server
from .hosts import default_hosts
from .limits import Limits, formats_of

__all__ = [
    "Limits",
    "create_app",
    "default_hosts",
    "formats_of",
    "listen",
    "server",
]
