"""Datasets by name or path, and the batches that training draws from them."""

from .dataset import Dataset, HeldOut, stratified_split
from .image_set import ArraySet, FileSet, ImageSet
from .registry import DATASETS, open_dataset

__all__ = [
    "DATASETS",
    "ArraySet",
    "Dataset",
    "FileSet",
    "HeldOut",
    "ImageSet",
    "open_dataset",
    "stratified_split",
]
