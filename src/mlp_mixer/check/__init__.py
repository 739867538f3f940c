"""What is wrong with a folder of images, as a report, a page, and a move that can be undone."""

from .folder import KINDS, SEVERITIES, Check, Finding, check_folder

__all__ = ["KINDS", "SEVERITIES", "Check", "Finding", "check_folder"]
