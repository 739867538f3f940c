"""Is the accuracy that a small folder announces the one that other photos get?

    python experiments/records/announced.py --data folder:PATH [--draws 20] [--photos 120]

Each draw takes three classes and 40 photos of each, as somebody's folder: a fifth is held
out, a linear probe on the bundled weights learns from the rest, and announces what its
folds say (`finetune --frozen`). The truth is its accuracy on all other photos of these
classes. Printed: the mean difference, its spread, and how many of the 95 % intervals hold
the truth; likewise for the held-out photos, which are what `evaluate` prints.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from mlp_mixer import load, open_dataset, resize
from mlp_mixer.data.dataset import image_split
from mlp_mixer.evaluation.features import pooled_features
from mlp_mixer.evaluation.logistic import cross_validate, fit_logistic
from mlp_mixer.intervals import wilson_interval
from mlp_mixer.weights.catalog import START

CLASSES = 3


def one_draw(
    seed: int, photos: int, x: np.ndarray, y: np.ndarray, keys: np.ndarray
) -> dict[str, tuple[float, int, float]]:
    """What one folder announces by its folds and by its held-out photos.

    Returns, for both, the share of right answers, of how many, and the truth.
    """
    rng = np.random.default_rng(seed)
    classes = np.sort(rng.permutation(np.unique(y))[:CLASSES])
    mine = []
    for label in classes:
        mine.append(rng.permutation(np.flatnonzero(y == label))[: photos // CLASSES])
    rows = np.concatenate(mine)
    others = np.setdiff1d(np.flatnonzero(np.isin(y, classes)), rows)
    labels = np.searchsorted(classes, y)

    rest, held = image_split(keys[rows], labels[rows], 0.2, 0)
    learnt, held_out = rows[rest], rows[held]
    mean = x[learnt].mean(axis=0)
    std = x[learnt].std(axis=0) + 1e-6
    x = (x - mean) / std
    found = cross_validate(x[learnt], labels[learnt], keys[learnt], CLASSES)
    assert found is not None
    head = fit_logistic(
        x[learnt], labels[learnt], strength=found.strength, most_steps=500
    )
    hits = (x @ head.weight.T + head.bias).argmax(axis=1) == labels
    truth = float(hits[others].mean())
    return {
        "five folds": (found.top1, len(learnt), truth),
        "held out": (float(hits[held_out].mean()), len(held_out), truth),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--photos", type=int, default=120)
    choice = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(choice.data)
    # As `finetune` gives photos to these weights.
    weights = resize(load(START), 64, method="interpolate", patch_size=4)
    parts = [part for part in (dataset.train, dataset.test) if part is not None]
    features = [
        pooled_features(weights.model, part, weights.preprocess) for part in parts
    ]
    x = np.concatenate(features)
    y = np.concatenate([part.labels for part in parts])
    keys = np.concatenate([part.keys() for part in parts])

    differences: dict[str, list[float]] = {}
    held: dict[str, int] = {}
    for seed in range(choice.draws):
        draws = one_draw(seed, choice.photos, x, y, keys)
        for name, (share, n, truth) in draws.items():
            low, high = wilson_interval(share * n, n)
            differences.setdefault(name, []).append(share - truth)
            held[name] = held.get(name, 0) + (low <= truth <= high)
    for name, values in differences.items():
        print(
            f"{name}: announced minus truth {100 * np.mean(values):+.1f} points "
            f"(sd {100 * np.std(values):.1f}), {held[name]} of {choice.draws} intervals "
            "hold the truth"
        )


if __name__ == "__main__":
    main()
