"""Data sets by name or path, and how to draw batches from them."""

from .image_set import ArraySet, FileSet, ImageSet
from .source import HeldOut, Source, stratified_split
from .sources import SOURCES, open_source

__all__ = ["SOURCES", "ArraySet", "FileSet", "HeldOut", "ImageSet", "Source", "open_source", "stratified_split"]
