"""A training run or an evaluation as one self-contained HTML page."""

from .build import build_report
from .page import Report, Sample, render, write_report

__all__ = ["Report", "Sample", "build_report", "render", "write_report"]
