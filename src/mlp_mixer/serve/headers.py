"""Say to browsers what a page of this server may do."""

from __future__ import annotations

HEADERS = {
    # The page loads only its own files; pictures are blobs and data URLs.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
"""Of every answer."""
