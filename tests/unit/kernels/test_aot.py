"""What the kernels need on a GPU that is not here, as compiled by Triton's own ptxas.

`python tests/unit/kernels/test_aot.py` compiles what a training step of each shape
launches, for compute capability 9.0 (H100, H200), and prints registers of a thread,
bytes of its stack (registers spilt to memory) and shared memory of a program, of which
a multiprocessor has 227 KiB.

With MLP_MIXER_AOT=all in the environment the tests compile every tile that ships, in
both dtypes and for four kinds of GPU, which takes some ten minutes.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from mlp_mixer.models import VARIANTS, MixerConfig

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from mlp_mixer.kernels import launch  # noqa: E402

SHAPES = {
    name: VARIANTS[f"mixer_{name}"]
    for name in ("s32", "s16", "b16", "l16", "h14", "tiny4")
}
# 100 tokens.
SHAPES["b16_160"] = dataclasses.replace(SHAPES["b16"], image_size=(160, 160))
# Shared memory that a program may have, by compute capability.
SHARED_KIB = {80: 163, 89: 99, 90: 227, 100: 227, 120: 99}
# The instruction of the tensor cores.
PRODUCT = {80: "mma.sync", 89: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
# Between an asynchronous copy to shared memory and a product of Hopper's that reads it.
# Triton before 3.7 leaves it out.
FENCE = "fence.proxy.async"
TRITON = tuple(int(number) for number in triton.__version__.split(".")[:2])
_TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel needs."""

    kernel: str
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    # Tensor core instructions, fences and quick tanhs in its code.
    products: int
    fences: int
    tanhs: int


@dataclass(frozen=True)
class Launch:
    """A launch of a kernel: the types of its arguments, and its constants."""

    kernel: Any
    types: list[str]
    constants: dict[str, Any]


def usage(
    config: MixerConfig,
    dtype: torch.dtype,
    *,
    scaled: bool = False,
    capability: int = 90,
    tanh: bool = True,
) -> Iterator[Usage]:
    """Every kernel that one block's token mixing launches, forward and backward."""
    for one in _launches(config, dtype, scaled, capability, tanh):
        yield _compile(one, capability)


def _launches(
    config: MixerConfig, dtype: torch.dtype, scaled: bool, capability: int, tanh: bool
) -> list[Launch]:
    """The launches of the operators themselves, on tensors without data."""
    launched = []

    def record(
        kernel: Any, grid: tuple[int, ...], inputs: tuple[Any, ...], **constants: Any
    ) -> None:
        types = [_type(value) for value in inputs]
        launched.append(Launch(kernel, types, constants))

    roomy = SHARED_KIB[capability] >= 200
    with (
        mock.patch.object(launch, "_run", record),
        mock.patch.object(launch, "_roomy", return_value=roomy),
        torch.device("meta"),
    ):
        _forward_and_backward(config, dtype, scaled, tanh)
    return launched


def _forward_and_backward(
    config: MixerConfig, dtype: torch.dtype, scaled: bool, tanh: bool
) -> None:
    B = 64
    S = config.num_patches
    C = config.hidden_dim
    D = config.tokens_mlp_dim
    x = torch.empty(B, S, C, dtype=dtype)
    scale = torch.empty(B, dtype=dtype) if scaled else None
    gamma = torch.empty(C)
    beta = torch.empty(C)
    w1 = torch.empty(D, S)
    b1 = torch.empty(D)
    w2 = torch.empty(S, D)
    b2 = torch.empty(S)
    weights = (gamma, beta, w1, b1, w2)
    options = (config.norm_eps, tanh, True)
    _, mean, rstd = launch.forward(x, *weights, b2, scale, *options)
    launch.backward(x, x, mean, rstd, *weights, scale, tanh, True, True)


def _type(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return _TYPES[argument.dtype]
    return {int: "i32", float: "fp32"}.get(type(argument), "constexpr")


def _compile(one: Launch, capability: int) -> Usage:
    kernel = one.kernel
    options: dict[str, Any] = {"enable_fp_fusion": True}
    constants: dict[str, Any] = {}
    for name, value in one.constants.items():
        place = options if name.startswith("num_") else constants
        place[name] = value
    signature = dict(zip(kernel.arg_names, one.types, strict=False))
    signature |= dict.fromkeys(constants, "constexpr")
    for name, kind in signature.items():
        if kind == "constexpr":
            constants.setdefault(name, None)
    # Tensors of torch begin at multiples of 16 bytes, and Triton makes use of it.
    attributes = {}
    for i, kind in enumerate(signature.values()):
        if kind.startswith("*"):
            attributes[i,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options=options)
    registers, stack = _resources(built.asm["cubin"])
    return Usage(
        kernel.fn.__name__,
        built.metadata.num_warps,
        registers,
        stack,
        built.metadata.shared,
        built.asm["ptx"].count(PRODUCT[capability]),
        built.asm["ptx"].count(FENCE),
        built.asm["ptx"].count("tanh.approx.f32"),
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        command = [tool, "--dump-resource-usage", file.name]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", process.stdout)
    assert found, process.stdout
    return int(found[1]), int(found[2])


KERNELS = [
    "statistics",
    "pack",
    "forward",
    "pack",
    "backward",
    "weight_gradient",
    "weight_gradient",
    "norm_backward",
]
WITH_PRODUCTS = ("forward", "backward", "weight_gradient")


@pytest.mark.parametrize(
    ("shape", "dtype", "tanh"),
    [
        ("s32", torch.bfloat16, True),
        ("b16", torch.bfloat16, False),
        ("h14", torch.float16, True),
    ],
)
def test_the_kernels_fit_the_gpu_and_keep_their_sums_in_registers(
    shape: str, dtype: torch.dtype, tanh: bool
) -> None:
    rows = list(usage(SHAPES[shape], dtype, scaled=True, capability=90, tanh=tanh))
    assert [row.kernel for row in rows] == KERNELS
    for row in rows:
        assert_fits(row, dtype, 90)


def assert_fits(row: Usage, dtype: torch.dtype, capability: int) -> None:
    assert row.shared_bytes <= SHARED_KIB[capability] * 1024, row
    # 16 registers of 255 may be spilt.
    assert row.stack_bytes <= 64, row
    if row.kernel not in WITH_PRODUCTS:
        return
    assert row.products > 0, row
    if capability == 90 and TRITON >= (3, 7):
        assert row.fences > 0, row
    if row.kernel != "weight_gradient":
        assert (row.tanhs > 0) == (dtype == torch.bfloat16), row


@pytest.mark.parametrize("capability", [89, 100])
def test_the_forward_pass_fits_gpus_with_less_and_with_newer_tensor_cores(
    capability: int,
) -> None:
    launches = _launches(SHAPES["b16"], torch.bfloat16, False, capability, True)
    row = _compile(launches[2], capability)
    assert row.kernel == "forward"
    assert_fits(row, torch.bfloat16, capability)


@pytest.mark.skipif(
    os.environ.get("MLP_MIXER_AOT") != "all",
    reason="takes ten minutes; set MLP_MIXER_AOT=all",
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("capability", PRODUCT)
@pytest.mark.parametrize("shape", ["s32", "b16_160", "b16", "h14"])
def test_every_tile_fits_every_gpu(
    shape: str, capability: int, dtype: torch.dtype
) -> None:
    """Each row of the tables in `tiles` is that of one of these shapes."""
    for row in usage(
        SHAPES[shape], dtype, scaled=True, capability=capability, tanh=False
    ):
        assert_fits(row, dtype, capability)


def test_a_tile_too_large_would_be_seen() -> None:
    from mlp_mixer.kernels.tiles import Tile

    with mock.patch.object(launch, "tile_for", return_value=Tile(256, 64, 4, 16)):
        launches = _launches(SHAPES["s32"], torch.bfloat16, False, 90, True)
    row = _compile(launches[2], 90)
    assert row.kernel == "forward"
    assert row.shared_bytes > 227 * 1024
    assert row.stack_bytes > 64


def main() -> None:
    columns = "{:6} {:9} {:16} {:>5} {:>9} {:>7} {:>10}"
    titles = ["model", "dtype", "kernel", "warps", "registers", "stack_B", "shared_KiB"]
    print(columns.format(*titles))
    for name, config in SHAPES.items():
        for dtype in (torch.bfloat16, torch.float16):
            # Two launches of one kernel may need the same: one row.
            for row in dict.fromkeys(usage(config, dtype)):
                cells = (
                    name,
                    str(dtype).removeprefix("torch."),
                    row.kernel,
                    row.warps,
                    row.registers,
                    row.stack_bytes,
                    f"{row.shared_bytes / 1024:.1f}",
                )
                print(columns.format(*cells), flush=True)


if __name__ == "__main__":
    main()
