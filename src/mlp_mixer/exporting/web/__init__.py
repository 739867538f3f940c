"""A classifier as one page that a browser runs, without a server."""

from .page import check_network, described, write_page
from .runtime import NAME, VERSION, Runtime, find_runtime

__all__ = [
    "NAME",
    "VERSION",
    "Runtime",
    "check_network",
    "described",
    "find_runtime",
    "write_page",
]
