import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor

from mlp_mixer.errors import UserError
from mlp_mixer.images.mix import (
    Mix,
    MixPlan,
    apply,
    mix_plan,
    soft_targets,
)
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.randomness import STREAMS

MIXUP = Mix(mixup=0.5)
CUTMIX = Mix(cutmix=1.0)
BOTH = Mix(mixup=0.8, cutmix=1.0, rule="timm")
SIZE = (12, 10)


def batch(count: int = 8, classes: int = 5) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(count)
    images = rng.normal(size=(count, 3, *SIZE)).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(rng.integers(0, classes, count))


def shares(mix: Mix, steps: int = 2000, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.array([mix_plan(mix, 3, step, size).share for step in range(steps)])


# Plans


@pytest.mark.parametrize("mix", [MIXUP, CUTMIX, BOTH])
def test_a_plan_is_a_function_of_seed_and_step(mix):
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    plans = [
        mix_plan(mix, seed, step, SIZE)
        for seed in (0, 1, -1, 2**64 + 5)
        for step in (0, 1, 10**9)
    ]
    assert plans == [
        mix_plan(mix, seed, step, SIZE)
        for seed in (0, 1, -1, 2**64 + 5)
        for step in (0, 1, 10**9)
    ]
    if mix is MIXUP:
        assert len({plan.share for plan in plans}) == len(plans)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_nothing_is_mixed_unless_asked_for():
    for mix in (Mix(), Mix(mixup=0.5, prob=0.0), Mix(cutmix=1.0, prob=0.0)):
        assert not mix.active
        assert {mix_plan(mix, 0, step, SIZE) for step in range(20)} == {
            MixPlan(1.0, None)
        }
    assert all(mix.active for mix in (MIXUP, CUTMIX, BOTH, Mix(mixup=0.1, prob=0.1)))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0, 2.0])
def test_mixup_s_share_follows_the_beta_distribution(alpha):
    """Mean and variance of Beta(a, a), and the mean of the larger part: 1/2 + 1 / (a
    4^a B(a, a)).
    """
    drawn = shares(Mix(mixup=alpha, rule="timm"))
    assert abs(drawn.mean() - 0.5) < 4 * drawn.std() / math.sqrt(2000)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.07)
    larger = shares(Mix(mixup=alpha))
    np.testing.assert_array_equal(larger, np.maximum(drawn, 1 - drawn))
    beta = math.gamma(alpha) ** 2 / math.gamma(2 * alpha)
    expected = 0.5 + 1 / (alpha * 4**alpha * beta)
    assert abs(larger.mean() - expected) < 4 * larger.std() / math.sqrt(2000)
    assert larger.min() >= 0.5


def test_an_image_s_own_part_is_the_larger_by_the_paper_s_rule():
    for mix in (MIXUP, CUTMIX, Mix(mixup=0.2, cutmix=0.3)):
        assert shares(mix, 500).min() >= 0.5
    assert shares(Mix(cutmix=1.0, rule="timm"), 500).min() < 0.4


def test_probabilities_are_those_of_batches():
    plans = [
        mix_plan(
            Mix(mixup=0.8, cutmix=1.0, prob=0.6, switch_prob=0.25), 0, step, (224, 224)
        )
        for step in range(4000)
    ]
    cut = sum(plan.box is not None for plan in plans) / 4000
    mixed = sum(plan.share < 1 for plan in plans) / 4000
    assert abs(mixed - 0.6) < 4 * math.sqrt(0.24 / 4000)
    assert abs(cut - 0.15) < 4 * math.sqrt(0.1275 / 4000)


def test_each_alpha_belongs_to_its_own_kind():
    """With both on, mixup's shares are those of 0.1, near the ends, and CutMix's those
    of 50, near the middle.
    """
    plans = [
        mix_plan(Mix(mixup=0.1, cutmix=50.0, rule="timm"), 0, step, (100, 100))
        for step in range(400)
    ]
    added = np.array([plan.share for plan in plans if plan.box is None])
    cut = np.array(
        [
            (b - t) * (r - le) / 1e4
            for t, le, b, r in (plan.box for plan in plans if plan.box)
        ]
    )
    assert np.abs(added - 0.5).mean() > 0.35
    assert 0.3 < cut.max() < 0.8
    assert min(len(added), len(cut)) > 140


@pytest.mark.parametrize("size", [(12, 10), (224, 224), (7, 40), (1, 1), (3, 2)])
def test_boxes_lie_inside_and_the_share_is_what_they_leave(size):
    for mix in (CUTMIX, BOTH):
        for step in range(300):
            plan = mix_plan(mix, 1, step, size)
            if plan.box is not None:
                top, left, bottom, right = plan.box
                assert 0 <= top <= bottom <= size[0]
                assert 0 <= left <= right <= size[1]
                assert plan.share == 1 - (bottom - top) * (right - left) / (
                    size[0] * size[1]
                )


def drawn(seed: int, step: int, rule: str) -> tuple[float, float, float]:
    """Row and column of the centre in [0, 1), and lambda before the box is cut off, for
    CutMix of alpha 1.
    """
    generator = np.random.Generator(
        np.random.Philox(key=[seed, step], counter=[0, 0, 0, STREAMS["mix"]])
    )
    _, _, row, column = generator.random(4)
    share = generator.beta(1.0, 1.0)
    return row, column, max(share, 1 - share) if rule == "paper" else share


@pytest.mark.parametrize("size", [(12, 10), (224, 224), (7, 40)])
@pytest.mark.parametrize("rule", ["paper", "timm"])
def test_boxes_by_hand(size, rule):
    """The sides before the cut are rounded down; the middle of an odd side is its
    middle pixel.
    """
    whole = 0
    for step in range(300):
        *place, share = drawn(9, step, rule)
        top, left, bottom, right = mix_plan(
            Mix(cutmix=1.0, rule=rule), 9, step, size
        ).box
        for draw, length, start, stop in zip(
            place, size, (top, left), (bottom, right), strict=True
        ):
            side = math.floor(length * math.sqrt(1 - share))
            centre = math.floor(draw * length)
            pixels = range(centre - side // 2, centre - side // 2 + side)
            assert [pixel for pixel in pixels if 0 <= pixel < length] == list(
                range(start, stop)
            )
            whole += start == pixels.start and stop == pixels.stop and side > 2
    assert whole > 50


@pytest.mark.parametrize("size", [(12, 10), (224, 224), (7, 40)])
@pytest.mark.parametrize("rule", ["paper", "timm"])
def test_boxes_are_timm_s(size, rule, monkeypatch):
    """timm's own function with our draws gives our box and our share; older versions
    shorten odd sides.
    """
    for step in range(300):
        *place, share = drawn(9, step, rule)
        if any(int(length * np.sqrt(1 - share)) % 2 for length in size):
            continue
        monkeypatch.setattr(
            np.random,
            "randint",
            lambda low, high, size, place=place: int(place.pop(0) * high),
        )
        box, corrected = cutmix_bbox_and_lam((8, 3, *size), share)
        top, bottom, left, right = (int(edge) for edge in box)
        assert mix_plan(Mix(cutmix=1.0, rule=rule), 9, step, size) == MixPlan(
            corrected, (top, left, bottom, right)
        )


def test_plans_do_not_follow_the_order_of_images():
    """The permutations of epochs come from the same keys, so the streams must differ."""
    order = np.random.Generator(
        np.random.Philox(key=np.array([3, 5], np.uint64))
    ).random(5)
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
    partner = [
        start + (place - 1) % group
        for start in range(0, 8, group)
        for place in range(group)
    ]
    if plan.box is None:
        expected = plan.share * x + (1 - plan.share) * x[partner]
    else:
        top, left, bottom, right = plan.box
        expected = x.copy()
        expected[:, :, top:bottom, left:right] = x[partner][
            :, :, top:bottom, left:right
        ]
    mixed, targets = apply(plan, images, labels, 5, group)
    assert (mixed.dtype, targets.dtype, targets.shape) == (
        torch.float32,
        torch.float32,
        (8, 5),
    )
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(
        targets, plan.share * hot + (1 - plan.share) * hot[partner], atol=1e-7
    )


def test_groups_of_two_are_pairs_and_larger_ones_rings():
    images = torch.arange(4.0)[:, None, None, None]
    paired, ring = (
        apply(MixPlan(0.75), images, torch.arange(4), 4, group)[0].flatten()
        for group in (2, 4)
    )
    assert paired.tolist() == [0.25, 0.75, 2.25, 2.75]
    assert ring.tolist() == [
        0.75,
        0.75,
        1.75,
        2.75,
    ]  # big_vision: the one before, and the last for the first


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
            counts = torch.stack(
                [(mixed == number).flatten(1).sum(1) for number in range(6)], dim=1
            )
            assert torch.equal(counts, (targets * math.prod(SIZE)).round().long())
            torch.testing.assert_close(counts / math.prod(SIZE), targets)


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_together_mix_as_one(world_size, group):
    images, labels = batch(16)
    for mix in (MIXUP, CUTMIX, BOTH):
        for step in range(10):
            plan = mix_plan(mix, 0, step, SIZE)
            whole = apply(plan, images, labels, 5, group)
            shares = [
                apply(plan, *part, 5, group)
                for part in zip(
                    images.chunk(world_size), labels.chunk(world_size), strict=True
                )
            ]
            for together, parts in zip(whole, zip(*shares, strict=True), strict=True):
                assert torch.equal(together, torch.cat(parts))


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
        after, _ = apply(plan, preprocess.normalize(pixels), torch.arange(4), 4)
        torch.testing.assert_close(
            preprocess.normalize(before), after, atol=1e-5, rtol=0
        )


def test_nothing_is_made_on_another_device():
    images, labels = batch()
    expected = [
        apply(mix_plan(BOTH, 0, step, SIZE), images, labels, 5) for step in range(6)
    ]
    with torch.device("meta"):
        for step, (mixed, targets) in enumerate(expected):
            ours = apply(mix_plan(BOTH, 0, step, SIZE), images, labels, 5)
            assert torch.equal(ours[0], mixed)
            assert torch.equal(ours[1], targets)


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
    assert targets[1].tolist() == pytest.approx(
        [smoothing / 4] * 3 + [1 - smoothing * 3 / 4]
    )
    logits = torch.randn(3, 4)
    torch.testing.assert_close(
        F.cross_entropy(logits, targets),
        F.cross_entropy(logits, labels, label_smoothing=smoothing),
    )


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
