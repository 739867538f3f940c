"""Show a training run, an evaluation, or several runs as one self-contained page."""

from .build import build_report
from .compare import RunSummary, find_runs, write_comparison
from .page import Report, render, write_report
from .sample import Sample

__all__ = [
    "Report",
    "RunSummary",
    "Sample",
    "build_report",
    "find_runs",
    "render",
    "write_comparison",
    "write_report",
]
