"""Show a training run, an evaluation, or several runs as one self-contained page."""

from .build import build_report
from .compare import RunSummary, find_runs, write_comparison
from .page import Report, Sample, render, write_report

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
