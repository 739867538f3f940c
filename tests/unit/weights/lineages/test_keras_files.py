"""Files laid out as Keras writes the keras.io example mlp_image_classification.

The layout (groups, empty groups, names, dtypes) was read off files of Keras 3.15.1;
Keras 3.0.5, 3.3.3, 3.4.1, 3.6.0, 3.8.0 and 3.10.0 use the same paths. They follow the
classes of the layers (`dense_1` is the second Dense beside it), not their automatic
names, which go on counting within a process and stand only in the attributes.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mlp_mixer import UserError, load
from mlp_mixer.weights.convert import convert
from mlp_mixer.weights.formats import containers

from ..closeness import ROUNDING_64, difference, in_float64

SIZE = 8
SIDE = 2
WIDTH = 6
CLASSES = 3
PATCHES = (SIZE // SIDE) ** 2
# Of float32 images that were normalised in float32; everything else is in float64.
NOISE = 1e-6

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """What varies between the files of one example."""

    augmented: bool = True
    direct: bool = (
        False  # the blocks are layers of the network itself, not of a Sequential in it
    )
    blocks: int = 2
    rescaling: bool = False
    fitted: bool = False  # a .keras archive with an optimizer's variables
    dtype: str = "float32"
    channels: int = 3
    built_before: int = 0  # layers of each class that the process made earlier


CASES = {
    "augmented": Case(),
    "plain": Case(augmented=False),
    "archive": Case(fitted=True, built_before=20),
    "direct": Case(direct=True, built_before=30),
    "twelve": Case(augmented=False, blocks=12, built_before=40),
    "rescaling": Case(rescaling=True),
    "float16": Case(dtype="float16"),
    "bfloat16": Case(dtype="bfloat16"),
    "grey": Case(channels=1),
    "twelve_direct": Case(direct=True, blocks=12, fitted=True),
}


def numbered(names: Iterable[str]) -> Iterator[str]:
    """Keras's names for the members of one container: the second of a class gets `_1`."""
    seen: Counter[str] = Counter()
    for name in names:
        yield f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


def layers_of(case: Case) -> list[str]:
    """The layers of the network, by class."""
    blocks = ["mlp_mixer_layer"] * case.blocks if case.direct else ["sequential"]
    first = (
        ["input_layer"]
        + ["rescaling"] * case.rescaling
        + ["sequential"] * case.augmented
    )
    return [
        *first,
        "patches",
        "dense",
        *blocks,
        "global_average_pooling1d",
        "dropout",
        "dense",
    ]


def tree(case: Case) -> dict[str, list[tuple[int, ...]]]:
    """Every layer's place in the file and its variables' shapes; a `count` has ()."""
    names = [f"layers/{name}" for name in numbered(layers_of(case))]
    sequentials = [name for name in names if "sequential" in name]
    found: dict[str, list[tuple[int, ...]]] = {"": []} | {name: [] for name in names}
    found["layers/dense"] = [(SIDE**2 * case.channels, WIDTH), (WIDTH,)]
    found["layers/dense_1"] = [(WIDTH, CLASSES), (CLASSES,)]
    if case.augmented:
        for layer in ("normalization", "resizing", "random_flip", "random_zoom"):
            found[f"{sequentials[0]}/layers/{layer}"] = []
        found[f"{sequentials[0]}/layers/normalization"] = [
            (case.channels,),
            (case.channels,),
            (),
        ]
    for name in numbered(["mlp_mixer_layer"] * case.blocks):
        block = f"layers/{name}" if case.direct else f"{sequentials[-1]}/layers/{name}"
        found |= {block: [], f"{block}/normalize": [(WIDTH,), (WIDTH,)]}
        for mlp, width in (("mlp1", PATCHES), ("mlp2", WIDTH)):
            found |= {f"{block}/{mlp}": [], f"{block}/{mlp}/layers/dropout": []}
            found[f"{block}/{mlp}/layers/dense"] = [(width, PATCHES), (PATCHES,)]
            found[f"{block}/{mlp}/layers/dense_1"] = [(PATCHES, width), (width,)]
    return found


def random_arrays(case: Case, seed: int = 0) -> dict[str, Array]:
    """Random float variables by their path in the file, rounded to the dtype."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for place, shapes in tree(case).items():
        for i, shape in enumerate(shapes[:2]):
            scale = 1.0 if case.rescaling else 255.0
            values = [
                rng.uniform(0.3, 0.6, shape) * scale,
                rng.uniform(0.02, 0.08, shape) * scale**2,
            ]
            array = values[i] if "normalization" in place else rng.normal(0, 0.3, shape)
            stored = torch.tensor(array).to(getattr(torch, case.dtype))
            arrays[f"{place}/vars/{i}"] = stored.float().numpy()
    return arrays


def write(path: Path, case: Case, arrays: dict[str, Array]) -> Path:
    """The file that Keras would have saved."""
    buffer = io.BytesIO()
    automatic: Counter[str] = Counter()
    with h5py.File(buffer, "w") as root:
        for place, shapes in tree(case).items():
            variables = root.create_group(f"{place}/vars")
            kind = place.rpartition("/")[2].rstrip("_0123456789") or "functional"
            number = automatic[kind] + case.built_before
            variables.attrs["name"] = f"{kind}_{number}" if number else kind
            automatic[kind] += 1
            for i in range(len(shapes[:2])):
                put(variables, str(i), arrays[f"{place}/vars/{i}"], case.dtype)
            if len(shapes) == 3:
                variables["2"] = np.int32(
                    2048
                )  # how many values the statistics saw: a scalar, not a list of one
        if case.fitted:
            optimizer = root.create_group("optimizer/vars")
            moments = [
                array
                for key, array in arrays.items()
                if "normalization" not in key
                for _ in range(2)
            ]
            for i, value in enumerate([np.int32(2), np.float32(1e-3), *moments]):
                optimizer[str(i)] = value
    if not case.fitted:
        path.write_bytes(buffer.getvalue())
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr(
            "config.json",
            '{"module": "keras.src.models.functional", "class_name": "Functional"}',
        )
        archive.writestr("model.weights.h5", buffer.getvalue())
    return path


def put(group: h5py.Group, key: str, array: Array, dtype: str) -> None:
    """A variable as Keras stores it; bfloat16 as two opaque bytes with an attribute."""
    if dtype == "bfloat16":
        opaque = torch.tensor(array).bfloat16().view(torch.int16).numpy().view("V2")
        group.create_dataset(key, data=opaque).attrs["dtype"] = "bfloat16"
    else:
        group[key] = array.astype(dtype)


def logits(case: Case, arrays: dict[str, Array], images_BHWC: Array) -> Tensor:
    """What the example computes from raw images, in float64; its Resizing gives SIZE."""
    variables = {
        key: torch.tensor(array, dtype=torch.float64) for key, array in arrays.items()
    }
    blocks = [
        place for place in tree(case) if "mlp_mixer_layer" in place.rpartition("/")[2]
    ]
    assert len(blocks) == case.blocks

    def pair(place: str) -> tuple[Tensor, Tensor]:
        return variables[f"{place}/vars/0"], variables[f"{place}/vars/1"]

    def dense(x: Tensor, place: str) -> Tensor:
        kernel, bias = pair(place)
        return x @ kernel + bias

    def mlp(x: Tensor, place: str) -> Tensor:
        return dense(
            F.gelu(dense(x, f"{place}/layers/dense")), f"{place}/layers/dense_1"
        )

    x = torch.tensor(images_BHWC, dtype=torch.float64) / (255 if case.rescaling else 1)
    if case.augmented:
        mean, variance = pair("layers/sequential/layers/normalization")
        x = (x - mean) / variance.sqrt().clamp(min=1e-7)
        x = F.interpolate(x.permute(0, 3, 1, 2), (SIZE, SIZE), mode="bilinear").permute(
            0, 2, 3, 1
        )
    rows = SIZE // SIDE
    x = (
        x.reshape(-1, rows, SIDE, rows, SIDE, case.channels)
        .transpose(2, 3)
        .reshape(len(x), PATCHES, -1)
    )
    x = dense(x, "layers/dense")
    for block in blocks:
        scale, shift = pair(f"{block}/normalize")
        x = (
            x
            + mlp(F.layer_norm(x, (WIDTH,), scale, shift, 1e-6).mT, f"{block}/mlp1").mT
        )
        x = x + mlp(F.layer_norm(x, (WIDTH,), scale, shift, 1e-6), f"{block}/mlp2")
    return dense(x.mean(1), "layers/dense_1")


def photos(case: Case, height: int = SIZE, width: int = SIZE) -> Array:
    return (
        np.random.default_rng(1)
        .integers(0, 256, (4, height, width, case.channels))
        .astype(np.uint8)
    )


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_keras_gives_what_keras_computes(name: str, tmp_path: Path) -> None:
    """From raw images where the file says how to normalise them, else from normal ones."""
    case = CASES[name]
    arrays = random_arrays(case)
    checkpoint = load(
        write(tmp_path / ("it.keras" if case.fitted else "it.weights.h5"), case, arrays)
    )
    assert (checkpoint.provenance["lineage"], checkpoint.provenance["container"]) == (
        "keras",
        "h5",
    )
    assert checkpoint.model.config.num_blocks == case.blocks
    assert checkpoint.model.config.in_channels == case.channels
    images = (
        photos(case) if case.augmented else photos(case).astype(np.float32) / 128 - 1
    )
    x_BCHW = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if case.rescaling:
        # Its factor is not in the file, and the statistics are of values after it.
        given = checkpoint.preprocess.mean, checkpoint.preprocess.std
        mean, std = (torch.tensor(values).view(-1, 1, 1) * 255 for values in given)
        x_BCHW = (x_BCHW / 255 - mean) / std
    elif case.augmented:
        x_BCHW = torch.stack([checkpoint.preprocess(image) for image in images])
    with torch.inference_mode():
        ours = in_float64(checkpoint.model)(x_BCHW)
    bound = NOISE if case.augmented else ROUNDING_64
    assert difference(ours, logits(case, arrays, images)) <= bound


@pytest.mark.parametrize(("height", "width"), [(4, 4), (11, 11), (5, 16)])
def test_images_of_other_sizes_are_resized_as_its_layer_does(
    height: int, width: int, tmp_path: Path
) -> None:
    case = CASES["augmented"]
    arrays = random_arrays(case)
    checkpoint = load(write(tmp_path / "it.weights.h5", case, arrays))
    images = photos(case, height, width)
    x_BCHW = torch.stack([checkpoint.preprocess(image) for image in images])
    with torch.inference_mode():
        ours = in_float64(checkpoint.model)(x_BCHW)
    assert difference(ours, logits(case, arrays, images)) <= NOISE


def test_a_channel_that_never_varies_is_divided_by_keras_epsilon(
    tmp_path: Path,
) -> None:
    case = CASES["augmented"]
    arrays = random_arrays(case)
    arrays["layers/sequential/layers/normalization/vars/1"] = np.array(
        [0.0, 100.0, 400.0], np.float32
    )
    std = load(write(tmp_path / "it.weights.h5", case, arrays)).preprocess.std
    assert std == pytest.approx([1e-7 / 255, 10 / 255, 20 / 255])


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    notes = {}
    for name in ("plain", "augmented", "archive"):
        path = write(
            tmp_path / f"{name}{'.keras' if CASES[name].fitted else '.h5'}",
            CASES[name],
            random_arrays(CASES[name]),
        )
        notes[name] = load(path).provenance.get("notes")
    guess = (
        "guessed: the 12 values of a patch are 3 channels of 2x2 pixels; state the image "
        "size if they are not"
    )
    assert notes == {
        "plain": [guess],
        "augmented": [guess],
        "archive": ["50 arrays beside the weights left out", guess],
    }


@pytest.mark.parametrize("name", ["plain", "bfloat16", "float16"])
def test_what_we_write_has_every_variable_keras_looks_for(
    name: str, tmp_path: Path
) -> None:
    """Its `load_weights` counts variables by group; a missing group counts as empty."""
    case = replace(CASES[name], augmented=False)
    source = write(tmp_path / "theirs.weights.h5", case, random_arrays(case))
    native = convert(source, tmp_path / "ours.safetensors", "native").path
    written = convert(native, tmp_path / "back.weights.h5", "keras").path
    with h5py.File(source) as theirs, h5py.File(written) as ours:
        assert (
            "vars" in ours
        )  # of the network itself; before 3.4, Keras would not do without
        for place, shapes in tree(case).items():
            group = ours.get(f"{place}/vars", {})
            assert sorted(group) == [str(i) for i in range(len(shapes))]
            for key in group:
                came = theirs[f"{place}/vars/{key}"]
                assert group[key].dtype == came.dtype
                assert group[key][()].tobytes() == came[()].tobytes()
                assert group[key].attrs.get("dtype") == came.attrs.get("dtype")
    assert {
        str(tensor.dtype) for tensor in containers.read(written).tensors.values()
    } == {f"torch.{case.dtype}"}


def test_two_stacks_of_blocks_are_not_one(tmp_path: Path) -> None:
    """They would fall on the same names, and half of them would silently be lost."""
    case = CASES["augmented"]
    path = write(tmp_path / "it.weights.h5", case, random_arrays(case))
    with h5py.File(path, "a") as root:
        root.copy("layers/sequential_1", "layers/sequential_2")
    with pytest.raises(
        UserError,
        match="keeps blocks in several places .*sequential_2/.* expected one stack",
    ):
        load(path)


@pytest.mark.parametrize("whole", [True, False], ids=["save", "save_weights"])
def test_the_old_kind_of_h5_is_named(whole: bool, tmp_path: Path) -> None:
    path = tmp_path / "it.h5"
    with h5py.File(path, "w") as root:
        group = root.create_group("model_weights") if whole else root
        group.attrs["layer_names"] = ["dense", "sequential"]
        group["dense/dense/kernel"] = np.zeros((12, 6), np.float32)
    with pytest.raises(
        UserError,
        match="is Keras's old kind of .h5 file; load it in Keras and save it as",
    ):
        load(path)
