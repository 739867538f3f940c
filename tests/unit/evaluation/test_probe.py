"""A probe of one source: against the verbs that measure the same, and its edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mlp_mixer as mm
from mlp_mixer.evaluation import evaluate_fewshot
from mlp_mixer.evaluation.logistic import STRENGTHS, fit_linear_head
from mlp_mixer.evaluation.probe import (
    LINEAR,
    ProbeChoice,
    ProbeRow,
    few_shot,
    probe_source,
)


def checkpoint(num_classes: int = 0, seed: int = 0) -> mm.Checkpoint:
    torch.manual_seed(seed)
    model = mm.create_model(
        "mixer_pico2",
        num_classes=num_classes,
        in_channels=1,
        image_size=8,
        num_blocks=1,
        hidden_dim=16,
        gelu="erf",
    )
    return mm.Checkpoint(model.eval(), mm.Preprocess((8, 8), channels=1, crop_pct=1.0))


def row_of(source: mm.Dataset, weights: mm.Checkpoint | None = None, **choice: Any):
    how = {"device": "cpu"}
    return probe_source(
        weights or checkpoint(), source.spec, source, ProbeChoice(**choice), **how
    )


def made(sizes: dict[str, int], seed: int = 0) -> mm.Dataset:
    """Noise around another brightness for each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    noise = rng.integers(0, 60, (len(labels), 8, 8, 1))
    images = (noise + 40 * labels[:, None, None, None]).astype(np.uint8)
    return mm.Dataset.from_arrays(images, labels, list(sizes))


def test_the_few_shot_numbers_are_those_of_the_verb() -> None:
    source = mm.open_dataset("digits")
    row = row_of(source, shots=(1, 5), seeds=(0, 3), linear=False)
    known = evaluate_fewshot(
        checkpoint(), source, shots=(1, 5), seeds=(0, 3), device="cpu"
    )
    for shots, by_seed in known.accuracies.items():
        found = row.accuracies[few_shot(shots)]
        assert [*found] == ["0", "3"]
        # The batches differ, and rounding may break a tie of one image.
        assert [*found.values()] == pytest.approx([*by_seed.values()], abs=1.01 / row.n)
    assert (row.n, row.split) == (
        len(known.eval_split.images),
        known.eval_split.split,
    )
    assert LINEAR not in row.accuracies


def test_the_linear_number_is_that_of_finetune_frozen(tmp_path: Path) -> None:
    weights = mm.save(
        tmp_path / "w.safetensors",
        checkpoint().model,
        preprocess=checkpoint().preprocess,
    )
    source = mm.open_dataset("digits")
    row = row_of(source, mm.load(weights), shots=(), seeds=(0,))
    settings = {"model.init": str(weights), "train.device": "cpu"}
    mm.finetune(
        weights,
        "digits",
        tmp_path / "run",
        frozen=True,
        recipe="paper",
        settings=settings,
    )
    expected = mm.evaluate(tmp_path / "run", "digits", device="cpu")
    assert row.split == expected.split
    assert row.accuracies[LINEAR]["0"] == pytest.approx(expected.top1, abs=2.01 / row.n)
    assert row.n_linear == row.n_train == len(source.train)
    # The random features beat the trivial answer by far.
    assert row.accuracies[LINEAR]["0"] > row.largest_class + 0.4


@pytest.mark.parametrize(("classes", "rows"), [((0, 1), 40), ((2, 5, 6), 90)])
def test_a_head_for_raw_features_answers_as_scikit_learns_pipeline(
    classes: tuple[int, ...], rows: int
) -> None:
    rng = np.random.default_rng(rows)
    y = np.asarray(classes)[np.arange(rows) % len(classes)]
    x = rng.normal(size=(rows, 6)) * [1, 9, 1, 1, 5, 1] + 3
    x[:, 0] += y
    head = fit_linear_head(x, y, np.arange(rows), max(classes) + 1)
    assert head.strength in STRENGTHS
    model = LogisticRegression(C=head.strength, max_iter=500)
    reference = make_pipeline(StandardScaler(), model).fit(x, y)
    new = rng.normal(size=(5000, 6)) * [1, 9, 1, 1, 5, 1] + 3
    agree = head.answers(new) == reference.predict(new)
    # More rows than one slice has; images on the border may go either way.
    assert agree.mean() > 0.999


def test_fewer_train_images_are_seeded_and_worth_less() -> None:
    source = mm.open_dataset("digits")
    every = row_of(source, shots=(), seeds=(0, 1))
    some = row_of(source, shots=(), seeds=(0, 1), train_images=40)
    assert (every.n_linear, some.n_linear) == (every.n_train, 40)
    # Of all images there is one choice; of 40 each seed makes another.
    assert [*every.accuracies[LINEAR]] == ["0"]
    assert [*some.accuracies[LINEAR]] == ["0", "1"]
    assert max(some.accuracies[LINEAR].values()) < every.accuracies[LINEAR]["0"]
    again = row_of(source, shots=(), seeds=(1,), train_images=40)
    assert again.accuracies[LINEAR]["1"] == some.accuracies[LINEAR]["1"]
    more = row_of(source, shots=(), seeds=(0,), train_images=10**6)
    assert more.accuracies[LINEAR] == every.accuracies[LINEAR]


def test_features_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_mixer.evaluation import features

    computed: list[int] = []

    def noted(model: Any, compute: Any, images: Any, *_: Any, **__: Any) -> Any:
        computed.append(len(images))
        return torch.rand(len(images), 16)

    monkeypatch.setattr(features, "outputs", noted)
    source = made({"a": 60, "b": 60})
    row_of(source, shots=(1, 5), seeds=(0, 1, 2))
    assert source.test is not None
    assert computed == [len(source.train), len(source.test)]
    computed.clear()
    row_of(source, shots=(2,), seeds=(0,), linear=False)
    assert computed == [4, len(source.test)]


def test_too_few_images_for_a_measure_leave_the_others() -> None:
    row = row_of(made({"cat": 60, "dog": 60, "owl": 8}), shots=(2, 40), seeds=(0,))
    assert [*row.accuracies] == ["2-shot", "linear"]
    assert "'owl' has" in row.missing["40-shot"]
    assert not row.complete
    assert row.mean("40-shot") is None
    written = row.to_dict()
    assert ProbeRow.from_dict(written) == row


@pytest.mark.parametrize(
    ("source", "choice", "message"),
    [
        (made({"cat": 30}), {}, "are of one class"),
        (made({"cat": 1, "dog": 1}), {}, "one image per class"),
        (
            made({"cat": 9, "dog": 9}),
            {"shots": (50,), "linear": False},
            "50 shots need",
        ),
    ],
)
def test_sources_that_cannot_be_probed(
    source: mm.Dataset, choice: Any, message: str
) -> None:
    with pytest.raises(mm.UserError, match=message):
        row_of(source, **choice)


def test_broken_weights_are_named() -> None:
    broken = checkpoint()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(mm.UserError, match="not finite numbers; look at the weights"):
        row_of(made({"cat": 30, "dog": 30}), broken)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"shots": (0,)}, "shots must be at least 1, got 0"),
        ({"seeds": ()}, "there is no seed"),
        ({"seeds": (-1,)}, "seeds must be at least 0"),
        ({"train_images": 1}, "train_images must be at least 2"),
        ({"l2": 0.0}, "l2 must be above 0"),
        ({"shots": (), "linear": False}, "nothing would be measured"),
    ],
)
def test_choices_that_make_no_sense(choice: Any, message: str) -> None:
    with pytest.raises(mm.UserError, match=message):
        ProbeChoice(**choice)


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"rows": 1},
        {"data": "x", "accuracies": {"linear": 0.5}},
        {"data": "x", "accuracies": {"linear": {"0": 7}}},
        {"data": "x", "accuracies": {"linear": {"0": "0.5"}}},
        {"data": "x", "accuracies": {"linear": {"0": float("nan")}}},
    ],
)
def test_what_is_no_row(values: Any) -> None:
    with pytest.raises(mm.UserError):
        ProbeRow.from_dict(values)
