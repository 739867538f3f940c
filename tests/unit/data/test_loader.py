import functools
import hashlib
import multiprocessing
import os
import pickle
import random
import signal
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from mlp_mixer.data import ArraySet, FileSet
from mlp_mixer.data.image_set import ImageSet
from mlp_mixer.data.loader import (
    Batch,
    EvalBatches,
    TrainBatches,
    auto_workers,
    stored,
    stream,
)
from mlp_mixer.errors import UserError
from mlp_mixer.images.augment import (
    Augment,
    augment_batch,
    draws_needed,
    inception_crop,
)
from mlp_mixer.images.preprocess import Preprocess
from mlp_mixer.randomness import batch_positions, uniforms

EVERYTHING = Augment(crop="pad", pad=2, shift=0.1, rotate=10, scale=0.1, flip=True)
INCEPTION = replace(EVERYTHING, crop="inception")
MORE = replace(EVERYTHING, policy="randaugment_bv", erase=0.5)
INCEPTION_AND_MORE = replace(MORE, crop="inception")
MEAN = (0.4, 0.5, 0.6)
STD = (0.2, 0.2, 0.3)
PREPROCESS = Preprocess((8, 6), crop_pct=1.0, mean=MEAN, std=STD)


class OneByOne(ImageSet):
    """The images of another set, without its arrays: nothing can take a short cut."""

    def __init__(self, images: ImageSet) -> None:
        super().__init__(images.labels, images.classes, images.channels, None)
        self.source = images

    def image(self, index):
        return self.source.image(index)

    def name(self, index):
        return self.source.name(index)

    def subset(self, indices):
        return OneByOne(self.source.subset(indices))


def random_images(
    count: int = 11, size: tuple[int, int] = (8, 6), channels: int = 3
) -> ArraySet:
    """Images with their number in the first value, and labels of the number modulo 4."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *size, channels), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return ArraySet(pixels, np.arange(count) % 4)


@pytest.fixture
def file_set(tmp_path) -> FileSet:
    """Eleven files of different sizes."""
    names = [f"{number}.png" for number in range(11)]
    rng = np.random.default_rng(1)
    for number, name in enumerate(names):
        size = (9 + number, 20 - number, 3)
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return FileSet(tmp_path, names, np.arange(11) % 4, list("abcd"))


@pytest.fixture
def jpeg_set(tmp_path) -> FileSet:
    """Eleven smooth photos in all orientations, large enough for a smaller scale."""
    names = [f"{number}.jpg" for number in range(11)]
    for number, name in enumerate(names):
        rows, columns = np.mgrid[: 70 + number, : 90 - number]
        waves = []
        for k in range(3):
            wave = np.sin(rows / 24 + k + number) * np.cos(columns / 18 - k)
            waves.append(128 + 100 * wave)
        pixels = np.stack(waves, axis=2).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        Image.fromarray(pixels).save(tmp_path / name, quality=95, exif=exif)
    return FileSet(tmp_path, names, np.arange(11) % 4, list("abcd"))


FIELDS = [field.name for field in fields(Batch)]


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches have the same bits."""
    return all(torch.equal(getattr(first, n), getattr(second, n)) for n in FIELDS)


def assert_alike(first: Batch, second: Batch) -> None:
    """Compare batches that were computed in other sizes, orders or numbers of threads.

    Their geometry may differ by a rounding, which a few gray values show; another draw
    changes nearly all of them.
    """
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.indices, second.indices)
    assert_alike_images(first.images, second.images)


def assert_alike_images(first: torch.Tensor, second: torch.Tensor) -> None:
    assert first.shape == second.shape
    assert first.dtype == second.dtype == torch.uint8
    assert (first != second).float().mean() <= 0.01


def train_batches(
    images: ImageSet, augment: Augment = EVERYTHING, **others
) -> TrainBatches:
    settings = {"batch_size": 4, "seed": 5} | others
    return TrainBatches(images, PREPROCESS, augment, **settings)


# Training batches


@pytest.mark.parametrize(
    "augment", [Augment(), EVERYTHING, INCEPTION, MORE, INCEPTION_AND_MORE]
)
def test_a_training_batch_is_a_function_of_its_step(augment):
    images = random_images(size=(13, 17) if augment.crop == "inception" else (8, 6))
    batch = train_batches(images, augment)[5]
    epochs, indices = batch_positions(5, 4, 11, seed=5)
    assert set(epochs) == {1, 2}  # the batch spans two epochs
    draws = uniforms(5, epochs, indices, draws_needed(augment))
    parts = []
    for index, own in zip(indices, draws, strict=True):
        if augment.crop == "inception":
            read = functools.partial(images.part, int(index))
            parts.append(inception_crop(read, own, (8, 6), augment))
        else:
            parts.append(torch.from_numpy(images.image(index)).permute(2, 0, 1))
    expected = augment_batch(
        torch.stack(parts), torch.from_numpy(draws), augment, mean=MEAN, std=STD
    )
    assert torch.equal(batch.images, expected)
    assert batch.labels.tolist() == (indices % 4).tolist()
    assert batch.indices.tolist() == indices.tolist()
    assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
    assert batch.images.shape == (4, 3, 8, 6)
    assert batch.images.is_contiguous()


@pytest.mark.parametrize("batch_size", [1, 4, 11, 25])
def test_images_keep_their_labels_and_come_once_in_each_epoch(batch_size):
    batches = train_batches(random_images(), Augment(), batch_size=batch_size)
    seen = [batches[step] for step in range(-(-33 // batch_size))]
    for batch in seen:
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.indices)
        assert torch.equal(batch.labels, batch.indices % 4)
    indices = torch.cat([batch.indices for batch in seen])[:33].view(3, 11)
    assert torch.equal(indices.sort(dim=1).values, torch.arange(11).expand(3, -1))


def test_an_image_looks_different_in_each_epoch_and_seed():
    first = train_batches(random_images(1), seed=0, batch_size=8)[0].images
    second = train_batches(random_images(1), seed=1, batch_size=8)[0].images
    assert len(first.unique(dim=0)) == 8
    assert not torch.equal(first, second)


@pytest.mark.parametrize("repeats", [1, 2, 8])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("augment", [EVERYTHING, INCEPTION, MORE])
def test_ranks_together_make_the_global_batch(world_size, augment, repeats):
    alone = train_batches(random_images(), augment, batch_size=8, repeats=repeats)
    ranks = []
    for rank in range(world_size):
        ranks.append(replace(alone, rank=rank, world_size=world_size))
    for step in (0, 1, 7):
        shares = [rank[step] for rank in ranks]
        assert {len(share.images) for share in shares} == {8 // world_size}
        joined = []
        for name in FIELDS:
            joined.append(torch.cat([getattr(share, name) for share in shares]))
        assert_alike(Batch(*joined), alone[step])


def test_pixels_are_those_of_the_batches():
    batches = train_batches(random_images(), MORE)
    epochs, indices = batch_positions(5, 4, 11, seed=5)
    assert torch.equal(batches.pixels(epochs, indices), batches[5].images)
    order = [2, 0, 3, 1]
    reordered = batches.pixels(epochs[order], indices[order])
    assert_alike_images(reordered, batches[5].images[order])


def test_old_settings_give_the_bytes_they_always_gave():
    """Recorded before there were policies, erasing and repeats.

    Only whole numbers are computed, so every machine gives these bytes.
    """
    batches = train_batches(random_images(), Augment(crop="pad", pad=2, flip=True))
    digest = hashlib.sha256()
    for step in range(5):
        digest.update(batches[step].images.numpy().tobytes())
    assert (
        digest.hexdigest()
        == "e00abd320f74491367f278c6b3de295da2fd6d4a7a00a350aef9e5ad4e50b071"
    )


@pytest.mark.parametrize("augment", [EVERYTHING, INCEPTION])
def test_a_policy_and_erasing_leave_the_other_draws_alone(augment):
    """What they are given is what would have been seen without them."""
    images = random_images(size=(13, 17) if augment.crop == "inception" else (8, 6))
    plain = train_batches(images, augment)[5]
    for more in ({"policy": "trivialaugment"}, {"erase": 0.9}):
        changed = train_batches(images, replace(augment, **more))[5]
        epochs, indices = batch_positions(5, 4, 11, seed=5)
        draws = uniforms(5, epochs, indices, 100)
        alone = augment_batch(
            plain.images,
            torch.from_numpy(draws),
            Augment(**more),
            mean=MEAN,
            std=STD,
        )
        assert torch.equal(changed.images, alone)
        assert not torch.equal(changed.images, plain.images)


@pytest.mark.parametrize("repeats", [2, 4])
def test_repeats_show_an_image_several_times_in_a_batch_each_time_differently(repeats):
    batches = train_batches(random_images(), EVERYTHING, batch_size=8, repeats=repeats)
    once = train_batches(random_images(), EVERYTHING, batch_size=8 // repeats)
    for step in (0, 3, 5):
        batch = batches[step]
        copies = batch.indices.view(repeats, -1)
        assert torch.equal(copies, once[step].indices.expand_as(copies))
        assert torch.equal(batch.labels, batch.indices % 4)
        assert len(batch.images.unique(dim=0)) == 8


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch_size": 8, "repeats": 0},
        {"batch_size": 8, "repeats": -1},
        {"batch_size": 8, "repeats": 3},
        {"batch_size": 0},
        {"batch_size": -4, "world_size": 2},
        {"batch_size": 6, "world_size": 4},
    ],
)
def test_sizes_that_do_not_divide_are_our_own_mistake(sizes):
    """`training.parallel.check_parallel` refuses them before, in a sentence."""
    with pytest.raises(AssertionError):
        train_batches(random_images(), **sizes)


@pytest.mark.parametrize("augment", [EVERYTHING, MORE, INCEPTION])
def test_a_store_gives_the_same_batches(augment):
    images = random_images()
    there = torch.device("cpu")
    plain = train_batches(images, augment)
    kept = train_batches(images, augment, store=stored(images, PREPROCESS, there))
    assert all(same(plain[step], kept[step]) for step in range(6))
    not_in_memory = OneByOne(images)
    to_be_scaled = random_images(size=(8, 7))
    gray = random_images(channels=1)
    for others in (not_in_memory, to_be_scaled, gray):
        assert stored(others, PREPROCESS, there) is None


def test_alternating_flips():
    """Each image is mirrored in every other epoch, and half of them in the first."""
    images = random_images(count=40)
    batches = train_batches(images, Augment(flip=True, alternate=True), batch_size=40)
    upright: dict[int, list[bool]] = {}
    for epoch in range(4):
        batch = batches[epoch]
        for index, pixels in zip(batch.indices.tolist(), batch.images, strict=True):
            original = torch.from_numpy(images.image(index)).permute(2, 0, 1)
            is_upright = torch.equal(pixels, original)
            assert is_upright or torch.equal(pixels, original.flip(2))
            upright.setdefault(index, []).append(is_upright)
    for first, second, third, fourth in upright.values():
        assert (third, fourth) == (first, second)
        assert first != second
    assert 10 < sum(epochs[0] for epochs in upright.values()) < 30


def test_batch_moves_to_a_device():
    batch = train_batches(random_images())[0].to(torch.device("meta"))
    for name in FIELDS:
        assert getattr(batch, name).device.type == "meta"


def test_scaled_decode_shows_the_same_but_for_the_finest_waves(jpeg_set):
    """Boxes and flips are the same; boxes are rounded to coarser pixels."""
    augment = Augment(crop="inception", area=(0.3, 1.0), flip=True)
    unscaled = replace(augment, scaled_decode=False)

    def seen(images: ImageSet, how: Augment) -> torch.Tensor:
        return train_batches(images, how, batch_size=44)[0].images.int()

    scaled = seen(jpeg_set, augment)
    full = seen(jpeg_set, unscaled)
    exact = seen(OneByOne(jpeg_set), augment)
    assert torch.equal(full, exact)
    assert not torch.equal(scaled, full)
    assert (scaled - full).abs().max() <= 24
    assert (scaled - full).abs().float().mean() < 4
    assert (full - full.flip(3)).abs().float().mean() > 10


# Short cut for arrays


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 6), (6, 8), (11, 9)])
@pytest.mark.parametrize(
    "how", [{"crop_pct": 1.0}, {"crop_pct": 0.5}, {"crop_pct": 1.0, "resize": "resize"}]
)
def test_arrays_in_memory_go_the_same_way_as_single_images(channels, size, how):
    images = random_images(size=size, channels=channels)
    preprocess = Preprocess((8, 6), channels=channels, **how)
    fast = EvalBatches(images, preprocess, 11)[0]
    slow = EvalBatches(OneByOne(images), preprocess, 11)[0]
    assert same(fast, slow)
    assert fast.images.is_contiguous()


def test_arrays_of_other_channels_are_refused_like_single_images():
    images = random_images(channels=1)
    for kind in (OneByOne(images), images):
        with pytest.raises(UserError, match=r"expected uint8 \(H, W, 3\)"):
            EvalBatches(kind, PREPROCESS, 4)[0]


# Evaluation batches


@pytest.mark.parametrize("batch_size", [1, 4, 11, 25])
def test_evaluation_covers_each_image_once_in_order(file_set, batch_size):
    batches = EvalBatches(file_set, PREPROCESS, batch_size)
    seen = list(stream(batches, range(len(batches)), workers=0))
    indices = torch.cat([batch.indices for batch in seen])
    labels = torch.cat([batch.labels for batch in seen])
    images = torch.cat([batch.images for batch in seen])
    assert indices.tolist() == list(range(11))
    assert labels.tolist() == file_set.labels.tolist()
    fitted = [PREPROCESS.fit(file_set.image(index)) for index in range(11)]
    expected = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2)
    assert torch.equal(images, expected)


def test_evaluation_ends():
    batches = EvalBatches(random_images(), PREPROCESS, 4)
    with pytest.raises(IndexError):
        batches[len(batches)]


# Streams and workers


@pytest.fixture
def start_method(request) -> Iterator[str]:
    """Another way to start worker processes, as the default of the whole process."""
    if request.param not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {request.param} on this system")
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("augment", [INCEPTION, INCEPTION_AND_MORE])
@pytest.mark.parametrize("kind", ["file_set", "jpeg_set"])
def test_workers_change_nothing(request, kind, workers, augment):
    batches = train_batches(request.getfixturevalue(kind), augment, repeats=2)
    steps = [7, 2, 3, 4]
    streamed = list(stream(batches, steps, workers=workers))
    for batch, step in zip(streamed, steps, strict=True):
        assert_alike(batch, batches[step])


@pytest.mark.parametrize("start_method", ["fork", "spawn"], indirect=True)
def test_start_method_changes_nothing(file_set, start_method):
    batches = train_batches(file_set, INCEPTION_AND_MORE)
    for step, batch in enumerate(stream(batches, range(3), workers=1)):
        assert_alike(batch, batches[step])


def test_batches_travel_between_processes(file_set):
    for batches in (train_batches(file_set), EvalBatches(file_set, PREPROCESS, 4)):
        assert same(pickle.loads(pickle.dumps(batches))[1], batches[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_is_one_sentence_wherever_it_is_met(file_set, workers):
    file_set.path(6).write_bytes(b"no image")
    batches = EvalBatches(file_set, PREPROCESS, 4)
    received = []
    with pytest.raises(UserError) as raised:
        received.extend(stream(batches, range(3), workers=workers))
    assert type(raised.value) is UserError
    assert "6.png" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_streaming_leaves_the_global_generators_alone(workers):
    def states() -> list[object]:
        of_numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [torch.get_rng_state().tolist(), of_numpy, random.getstate()]

    before = states()
    list(stream(train_batches(random_images()), range(3), workers=workers))
    assert states() == before


class Interruptible(Dataset):
    """Items say whether their process would die of Ctrl-C, and which process it is."""

    def __getitem__(self, number):
        dies = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        return dies, os.getpid()


def test_workers_ignore_ctrl_c_and_one_batch_needs_none():
    ((mine, here),) = stream(Interruptible(), [0], workers=2)
    assert mine
    assert here == os.getpid()
    answers = list(stream(Interruptible(), [0, 1], workers=1))
    assert {interruptible for interruptible, _ in answers} == {False}
    assert here not in {process for _, process in answers}


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (64, 8)])
def test_auto_workers(file_set, monkeypatch, cores, workers):
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda process: set(range(cores)), raising=False
    )
    assert auto_workers(file_set) == workers
    assert auto_workers(random_images()) == 0
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert auto_workers(file_set) == workers
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert auto_workers(file_set) == 1
