"""Mixing against computations by hand, timm's boxes and torch's losses."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from mlp_mixer.errors import UserError
from mlp_mixer.images.mix import MixPlan, apply, mix_plan, soft_targets
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.images.settings import Mix
from mlp_mixer.randomness import STREAMS

MIXUP = Mix(mixup=0.5)
CUTMIX = Mix(cutmix=1.0)
BOTH = Mix(mixup=0.8, cutmix=1.0, rule="timm")
SIZE = (12, 10)


def batch(count: int = 8, classes: int = 5) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(count)
    images = rng.normal(size=(count, 3, *SIZE)).astype(np.float32)
    labels = rng.integers(0, classes, count)
    return torch.from_numpy(images), torch.from_numpy(labels)


def plans_of(mix: Mix, steps: int, seed: int = 0) -> list[MixPlan]:
    return [mix_plan(mix, seed, step, SIZE) for step in range(steps)]


def shares(mix: Mix, steps: int = 2000) -> np.ndarray:
    return np.array([plan.share for plan in plans_of(mix, steps, seed=3)])


def deviation_of_the_mean(values: np.ndarray) -> float:
    return values.std() / math.sqrt(len(values))


# Plans


@pytest.mark.parametrize("mix", [MIXUP, CUTMIX, BOTH])
def test_a_plan_is_a_function_of_seed_and_step(mix):
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    keys = list(itertools.product((0, 1, -1, 2**64 + 5), (0, 1, 10**9)))
    plans = [mix_plan(mix, seed, step, SIZE) for seed, step in keys]
    again = [mix_plan(mix, seed, step, SIZE) for seed, step in keys]
    assert plans == again
    if mix is MIXUP:
        assert len({plan.share for plan in plans}) == len(plans)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_nothing_is_mixed_unless_asked_for():
    never = dataclasses.replace(BOTH, prob=0.0)
    for mix in (Mix(), never):
        assert not mix.active
        assert set(plans_of(mix, 20)) == {MixPlan(1.0, None)}
    for mix in (MIXUP, CUTMIX, BOTH, Mix(mixup=0.1, prob=0.1)):
        assert mix.active


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0, 2.0])
def test_mixup_s_share_follows_the_beta_distribution(alpha):
    """Mean and variance of Beta(a, a), and the mean of the larger part.

    The last is 1/2 + 1 / (a 4^a B(a, a)).
    """
    drawn = shares(Mix(mixup=alpha, rule="timm"))
    assert abs(drawn.mean() - 0.5) < 4 * deviation_of_the_mean(drawn)
    variance = 1 / (4 * (2 * alpha + 1))
    assert drawn.var() == pytest.approx(variance, rel=0.07)
    larger = shares(Mix(mixup=alpha))
    np.testing.assert_array_equal(larger, np.maximum(drawn, 1 - drawn))
    beta = math.gamma(alpha) ** 2 / math.gamma(2 * alpha)
    expected = 0.5 + 1 / (alpha * 4**alpha * beta)
    assert abs(larger.mean() - expected) < 4 * deviation_of_the_mean(larger)
    assert larger.min() >= 0.5


def test_an_image_s_own_part_is_the_larger_by_the_paper_s_rule():
    for mix in (MIXUP, CUTMIX, Mix(mixup=0.2, cutmix=0.3)):
        assert shares(mix, 500).min() >= 0.5
    assert shares(Mix(cutmix=1.0, rule="timm"), 500).min() < 0.4


def test_probabilities_are_those_of_batches():
    mix = Mix(mixup=0.8, cutmix=1.0, prob=0.6, switch_prob=0.25)
    plans = plans_of(mix, 4000)
    cut = sum(plan.box is not None for plan in plans) / 4000
    mixed = sum(plan.share < 1 for plan in plans) / 4000
    assert abs(mixed - 0.6) < 4 * math.sqrt(0.24 / 4000)
    assert abs(cut - 0.15) < 4 * math.sqrt(0.1275 / 4000)


def test_each_alpha_belongs_to_its_own_kind():
    """With both on, mixup's shares are those of 0.1, and CutMix's those of 50.

    The former lie near the ends, the latter near the middle.
    """
    mix = Mix(mixup=0.1, cutmix=50.0, rule="timm")
    added = []
    cut = []
    for step in range(400):
        plan = mix_plan(mix, 0, step, (100, 100))
        if plan.box is None:
            added.append(plan.share)
        else:
            top, left, bottom, right = plan.box
            cut.append((bottom - top) * (right - left) / 100**2)
    assert np.abs(np.array(added) - 0.5).mean() > 0.35
    assert 0.3 < max(cut) < 0.8
    assert min(len(added), len(cut)) > 140


SIZES = [(12, 10), (224, 224), (7, 40)]


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (3, 2)])
@pytest.mark.parametrize("mix", [CUTMIX, BOTH])
def test_boxes_lie_inside_and_the_share_is_what_they_leave(size, mix):
    height, width = size
    for step in range(300):
        plan = mix_plan(mix, 1, step, size)
        if plan.box is not None:
            top, left, bottom, right = plan.box
            assert 0 <= top <= bottom <= height
            assert 0 <= left <= right <= width
            covered = (bottom - top) * (right - left) / (height * width)
            assert plan.share == 1 - covered


def drawn(seed: int, step: int, rule: str) -> tuple[float, float, float]:
    """Row and column of the centre in [0, 1), and lambda before the box is cut off.

    For CutMix of alpha 1.
    """
    counter = [0, 0, 0, STREAMS["mix"]]
    philox = np.random.Philox(key=[seed, step], counter=counter)
    generator = np.random.Generator(philox)
    _, _, row, column = generator.random(4)
    share = generator.beta(1.0, 1.0)
    if rule == "paper":
        share = max(share, 1 - share)
    return row, column, share


def span(draw: float, length: int, share: float) -> range:
    """The pixels of one side of a box before it is cut off at the borders."""
    side = math.floor(length * math.sqrt(1 - share))
    start = math.floor(draw * length) - side // 2
    return range(start, start + side)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["paper", "timm"])
def test_boxes_by_hand(size, rule):
    """The sides before the cut are rounded down.

    The middle of an odd side is its middle pixel.
    """
    mix = Mix(cutmix=1.0, rule=rule)
    height, width = size
    whole = 0
    for step in range(300):
        row, column, share = drawn(9, step, rule)
        top, left, bottom, right = mix_plan(mix, 9, step, size).box
        rows = span(row, height, share)
        columns = span(column, width, share)
        assert [y for y in rows if 0 <= y < height] == list(range(top, bottom))
        assert [x for x in columns if 0 <= x < width] == list(range(left, right))
        whole += len(rows) > 2 and rows == range(top, bottom)
        whole += len(columns) > 2 and columns == range(left, right)
    assert whole > 50


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", ["paper", "timm"])
def test_boxes_are_timm_s(size, rule, monkeypatch):
    """timm's own function with our draws gives our box and our share.

    Older versions shorten odd sides, so these are left out.
    """
    mix = Mix(cutmix=1.0, rule=rule)
    for step in range(300):
        *place, share = drawn(9, step, rule)
        sides = [int(length * np.sqrt(1 - share)) for length in size]
        if any(side % 2 for side in sides):
            continue
        queue = iter(place)

        def randint(low, high, size, queue=queue):
            return int(next(queue) * high)

        monkeypatch.setattr(np.random, "randint", randint)
        box, corrected = cutmix_bbox_and_lam((8, 3, *size), share)
        top, bottom, left, right = (int(edge) for edge in box)
        plan = mix_plan(mix, 9, step, size)
        assert plan == MixPlan(corrected, (top, left, bottom, right))


def test_plans_do_not_follow_the_order_of_images():
    """The permutations of epochs come from the same keys, so the streams must differ."""
    philox = np.random.Philox(key=np.array([3, 5], np.uint64))
    order = np.random.Generator(philox).random(5)
    plan = mix_plan(Mix(mixup=1.0, rule="timm"), 3, 5, SIZE)
    assert plan.share not in order


# Mixing


@pytest.mark.parametrize("group", [2, 4, 8])
@pytest.mark.parametrize(
    "plan",
    [
        MixPlan(0.7),
        MixPlan(0.5),
        MixPlan(0.9, (2, 3, 5, 7)),
        MixPlan(0.4, (0, 0, 12, 6)),
    ],
)
def test_equals_a_computation_by_hand(plan, group):
    images, labels = batch()
    x = images.numpy().astype(np.float64)
    hot = np.eye(5)[labels.numpy()]
    partner = []
    for start in range(0, 8, group):
        partner += [start + (place - 1) % group for place in range(group)]
    other = x[partner]
    rest = 1 - plan.share
    if plan.box is None:
        expected = plan.share * x + rest * other
    else:
        top, left, bottom, right = plan.box
        box = np.s_[:, :, top:bottom, left:right]
        expected = x.copy()
        expected[box] = other[box]
    mixed, targets = apply(plan, images, labels, 5, group)
    assert mixed.dtype == targets.dtype == torch.float32
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    shares = plan.share * hot + rest * hot[partner]
    np.testing.assert_allclose(targets, shares, atol=1e-7)


def test_groups_of_two_are_pairs_and_larger_ones_rings():
    labels = torch.arange(4)
    images = labels[:, None, None, None].float()
    paired, _ = apply(MixPlan(0.75), images, labels, 4, group=2)
    ring, _ = apply(MixPlan(0.75), images, labels, 4, group=4)
    assert paired.flatten().tolist() == [0.25, 0.75, 2.25, 2.75]
    # As big_vision: the one before, and the last for the first.
    assert ring.flatten().tolist() == [0.75, 0.75, 1.75, 2.75]


@pytest.mark.parametrize("mix", [MIXUP, CUTMIX, BOTH])
def test_targets_are_shares_of_one(mix):
    images, labels = batch(64)
    for step in range(20):
        _, targets = apply(mix_plan(mix, 0, step, SIZE), images, labels, 5)
        torch.testing.assert_close(targets.sum(1), torch.ones(64))
        assert targets.min() >= 0
        assert (targets > 0).sum(1).max() <= 2


@pytest.mark.parametrize("mix", [CUTMIX, BOTH])
def test_pixels_of_cutmix_have_exactly_the_target_s_shares(mix):
    """Images that hold only their number: the count of each is its target."""
    labels = torch.arange(6)
    images = labels.float()[:, None, None, None].expand(6, 1, *SIZE)
    for step in range(100):
        plan = mix_plan(mix, 0, step, SIZE)
        if plan.box is not None:
            mixed, targets = apply(plan, images, labels, 6)
            held = mixed.flatten(1)[:, None] == labels[None, :, None]
            shares = held.float().mean(dim=2)
            torch.testing.assert_close(shares, targets, rtol=0, atol=1e-6)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("mix", [MIXUP, CUTMIX, BOTH])
def test_processes_together_mix_as_one(world_size, group, mix):
    images, labels = batch(16)
    own_images = images.chunk(world_size)
    own_labels = labels.chunk(world_size)
    for plan in plans_of(mix, 10):
        mixed, targets = apply(plan, images, labels, 5, group)
        parts = [
            apply(plan, x, y, 5, group)
            for x, y in zip(own_images, own_labels, strict=True)
        ]
        assert torch.equal(mixed, torch.cat([part[0] for part in parts]))
        assert torch.equal(targets, torch.cat([part[1] for part in parts]))


@pytest.mark.parametrize("plan", [MixPlan(), MixPlan(0.7), MixPlan(0.9, (2, 3, 5, 7))])
def test_arguments_stay_as_they_are(plan):
    images, labels = batch()
    before = images.clone(), labels.clone()
    mixed, targets = apply(plan, images, labels, 5)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    if plan == MixPlan():
        assert torch.equal(mixed, images)
        assert torch.equal(targets, F.one_hot(labels, 5).float())


def test_pixels_may_be_mixed_before_or_after_normalising():
    preprocess = Preprocess(SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    pixels = torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8)
    for plan in (MixPlan(0.7), MixPlan(0.9, (2, 3, 5, 7))):
        before, _ = apply(plan, pixels, torch.arange(4), 4)
        before = preprocess.normalize(before)
        after, _ = apply(plan, preprocess.normalize(pixels), torch.arange(4), 4)
        torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


def test_nothing_is_made_on_another_device():
    images, labels = batch()
    for plan in plans_of(BOTH, 6):
        mixed, targets = apply(plan, images, labels, 5)
        with torch.device("meta"):
            again = apply(plan, images, labels, 5)
        assert torch.equal(again[0], mixed)
        assert torch.equal(again[1], targets)


@pytest.mark.parametrize(("count", "group"), [(7, 2), (6, 4), (1, 2)])
def test_groups_divide_the_batch(count, group):
    """`check_parallel` tells the user; here it would be our own mistake."""
    with pytest.raises(AssertionError):
        apply(MixPlan(), *batch(count), 5, group)


# Targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_soft_targets_are_torch_s_label_smoothing(smoothing):
    labels = torch.tensor([0, 3, 2])
    targets = soft_targets(labels, 4, smoothing)
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    rest = smoothing / 4
    expected = [rest, rest, rest, 1 - 3 * rest]
    assert targets[1].tolist() == pytest.approx(expected)
    logits = torch.randn(3, 4)
    ours = F.cross_entropy(logits, targets)
    theirs = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixup": -0.1}, "mix.mixup must be a number of at least 0, got -0.1"),
        (
            {"cutmix": float("inf")},
            "mix.cutmix must be a number of at least 0, got inf",
        ),
        ({"mixup": float("nan")}, "mix.mixup must be a number"),
        ({"prob": 1.5}, "mix.prob must be a probability from 0 to 1, got 1.5"),
        ({"switch_prob": -1.0}, "mix.switch_prob must be a probability"),
        ({"rule": "papers"}, "unknown mix.rule 'papers'; did you mean 'paper'"),
        ({"group": 1}, "mix.group must be at least 2 images, got 1"),
    ],
)
def test_senseless_fields_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Mix(**fields)
