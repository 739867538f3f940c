"""Find what is wrong with a folder of images, before a training run finds out.

`mlp_mixer.check.page` writes the result as a page. It is not exported here: it draws
with the report, which loads torch, and most checks need neither.
"""

from ..data.layout import FolderFile
from .dataset import check_dataset
from .findings import KINDS, SEVERITIES, Check, Finding, Picture
from .folder import check_folder
from .quarantine import place_for, put_back, set_aside

__all__ = [
    "KINDS",
    "SEVERITIES",
    "Check",
    "Finding",
    "FolderFile",
    "Picture",
    "check_dataset",
    "check_folder",
    "place_for",
    "put_back",
    "set_aside",
]
