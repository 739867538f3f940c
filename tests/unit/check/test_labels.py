"""Labels that the nearest pictures contradict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlp_mixer.check import check_folder


def test_given_features_decide_which_labels_are_odd(
    tmp_path: Path, write_sound: Callable[..., Path]
) -> None:
    """Where the colours say nothing, and where some pictures have no features."""
    write_sound(tmp_path, train=20)
    labels = ["meadow", "sea", "desert"]

    def features(paths: Sequence[Path]) -> list[np.ndarray | None]:
        noise = np.random.default_rng(0).random((len(paths), 3))
        vectors: list[np.ndarray | None] = []
        for path, offset in zip(paths, noise, strict=True):
            label = labels.index(path.parent.name)
            if path == tmp_path / "train/meadow/05.jpg":
                label = labels.index("sea")
            vector = 9 * np.eye(3)[label] + offset
            vectors.append(None if path.name == "06.jpg" else vector)
        return vectors

    check = check_folder(tmp_path, workers=1, features=features)
    (finding,) = check.findings
    assert (finding.kind, finding.path) == ("odd-label", "train/meadow/05.jpg")
    expected = "is in meadow, but all ten pictures most like it are in sea"
    assert finding.message == expected
