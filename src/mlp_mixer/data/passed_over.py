"""Say what a reader passed over: nothing that people bring is lost in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import listed
from ..images.decode import HEIC_ENDINGS

_MOST_NAMES = 6

PICTURES_OF_OTHERS = {
    **dict.fromkeys(HEIC_ENDINGS, "pip install pillow-heif, or convert them to JPEG"),
    **dict.fromkeys(
        (".svg", ".eps", ".ai", ".pdf"), "drawings have no pixels: export them"
    ),
    **dict.fromkeys(
        (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".raw"),
        "develop raw photos to JPEG",
    ),
    **dict.fromkeys(
        (".jxl", ".psd", ".tga", ".exr", ".hdr", ".dds", ".pcx", ".xcf", ".qoi"),
        "convert them to PNG or JPEG",
    ),
    **dict.fromkeys((".dcm", ".nii", ".mat", ".npy"), "save them as PNG of 8 bits"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm"), "take frames of videos"),
    **dict.fromkeys((".zip", ".tar", ".gz", ".7z", ".rar"), "unpack them"),
}
"""Endings of files that hold pictures for people, and what to do with them."""


def in_words(endings: Mapping[str, int], folders: Sequence[str] = ()) -> str:
    """Return what was passed over as a text such as "6 .heic, 1 without ending".

    Args:
        endings: How many files have an ending, which begins with a dot or is empty.
        folders: The names of folders.
    """
    parts = []
    for ending, count in sorted(endings.items(), key=lambda item: (-item[1], item[0])):
        parts.append(f"{count:,} {ending or 'without ending'}")
    parts += [f"folder {name!r}" for name in folders]
    text = listed(parts, _MOST_NAMES, ", ")
    advice = {
        PICTURES_OF_OTHERS[ending]: ending
        for ending in sorted(endings)
        if ending in PICTURES_OF_OTHERS
    }
    hints = [f"{ending}: {hint}" for hint, ending in advice.items()]
    return f"{text} ({'; '.join(hints)})" if hints else text
