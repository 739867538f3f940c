"""What the kernels take on a GPU that is not here: compiled ahead of time, by Triton's
own ptxas.

`python tests/unit/kernels/test_aot.py` compiles what a training step of each shape
launches, for compute capability 9.0 (H100, H200), and prints registers of a thread,
bytes of its stack (registers spilt to memory) and shared memory of a program, of which
a multiprocessor has 227 KiB.
"""

from __future__ import annotations

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

from mlp_mixer.kernels import ops  # noqa: E402

SHAPES = {
    name: VARIANTS[f"mixer_{name}"]
    for name in ("s32", "s16", "b16", "l16", "h14", "tiny4")
}
SHARED_KIB = {
    80: 163,
    89: 99,
    90: 227,
    100: 227,
    120: 99,
}  # of a program, by compute capability
_TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes."""

    kernel: str
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    products: int  # tensor core instructions of Hopper in its code


def usage(
    config: MixerConfig,
    dtype: torch.dtype,
    *,
    scaled: bool = False,
    capability: int = 90,
    tanh: bool = True,
) -> Iterator[Usage]:
    """Every kernel that one block's token mixing launches, forward and backward."""
    for kernel, types, constants in _launches(config, dtype, scaled, capability, tanh):
        yield _compile(kernel, types, constants, capability)


def _launches(
    config: MixerConfig, dtype: torch.dtype, scaled: bool, capability: int, tanh: bool
) -> list[tuple[Any, list[str], dict[str, Any]]]:
    """The launches of the operators themselves, on tensors without data: kernel, types
    of arguments, constants.
    """
    B = 64
    S = config.num_patches
    C = config.hidden_dim
    D = config.tokens_mlp_dim
    launched = []

    def record(
        kernel: Any, grid: tuple[int, ...], inputs: tuple[Any, ...], **constants: Any
    ) -> None:
        launched.append((kernel, [_type(value) for value in inputs], constants))

    roomy = mock.patch.object(ops, "_roomy", return_value=SHARED_KIB[capability] >= 200)
    with mock.patch.object(ops, "_run", record), roomy, torch.device("meta"):
        x = torch.empty(B, S, C, dtype=dtype)
        scale = torch.empty(B, dtype=dtype) if scaled else None
        gamma, beta, w1, b1, w2, b2 = (
            torch.empty(*shape) for shape in ((C,), (C,), (D, S), (D,), (S, D), (S,))
        )
        _, mean, rstd = ops.forward(
            x, gamma, beta, w1, b1, w2, b2, scale, config.norm_eps, tanh, True
        )
        ops.backward(x, x, mean, rstd, gamma, beta, w1, b1, w2, scale, tanh, True)
    return launched


def _type(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return _TYPES[argument.dtype]
    return {int: "i32", float: "fp32"}.get(type(argument), "constexpr")


def _compile(
    kernel: Any, types: list[str], constants: dict[str, Any], capability: int
) -> Usage:
    options = {
        name: value for name, value in constants.items() if name.startswith("num_")
    }
    constants = {
        name: value for name, value in constants.items() if name not in options
    }
    signature = dict(zip(kernel.arg_names, types, strict=False)) | dict.fromkeys(
        constants, "constexpr"
    )
    constants |= {
        name: None
        for name, kind in signature.items()
        if kind == "constexpr" and name not in constants
    }
    aligned = [i for i, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned}
    )
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(
        source, target=target, options=options | {"enable_fp_fusion": True}
    )
    registers, stack = _resources(built.asm["cubin"])
    products = built.asm["ptx"].count("wgmma.mma_async")
    return Usage(
        kernel.fn.__name__,
        built.metadata.num_warps,
        registers,
        stack,
        built.metadata.shared,
        products,
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [
            triton.knobs.nvidia.cuobjdump.path,
            "--dump-resource-usage",
            file.name,
        ]
        text = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


@pytest.mark.parametrize(
    ("shape", "capability", "dtype", "tanh"),
    [
        ("s32", 90, torch.bfloat16, True),
        ("b16", 90, torch.bfloat16, False),
        ("h14", 90, torch.float16, True),
    ],
)
def test_the_kernels_fit_the_gpu_and_keep_their_sums_in_registers(
    shape: str, capability: int, dtype: torch.dtype, tanh: bool
) -> None:
    rows = list(
        usage(SHAPES[shape], dtype, scaled=True, capability=capability, tanh=tanh)
    )
    names = [
        "statistics",
        "pack",
        "forward",
        "pack",
        "backward",
        "weight_gradient",
        "weight_gradient",
        "norm_backward",
    ]
    assert [row.kernel for row in rows] == names
    for row in rows:
        assert row.shared_bytes <= SHARED_KIB[capability] * 1024, row
        assert row.stack_bytes <= 64, row  # 16 registers of 255
        if capability == 90 and row.kernel in (
            "forward",
            "backward",
            "weight_gradient",
        ):
            assert row.products > 0, row


def test_a_tile_too_large_would_be_seen() -> None:
    from mlp_mixer.kernels.tiles import Tile

    with mock.patch.object(ops, "tile_for", return_value=Tile(256, 64, 4, 16)):
        kernel, types, constants = _launches(
            SHAPES["s32"], torch.bfloat16, False, 90, True
        )[2]
    row = _compile(kernel, types, constants, 90)
    assert row.kernel == "forward"
    assert row.shared_bytes > 227 * 1024
    assert row.stack_bytes > 64


def main() -> None:
    print(
        f"{'model':6} {'dtype':9} {'kernel':16} {'warps':>5} {'registers':>9} {'stack B':>7} {'shared KiB':>10}"
    )
    for name, config in SHAPES.items():
        for dtype in (torch.bfloat16, torch.float16):
            for row in dict.fromkeys(usage(config, dtype)):
                print(
                    f"{name:6} {str(dtype)[6:]:9} {row.kernel:16} {row.warps:5} {row.registers:9} "
                    f"{row.stack_bytes:7} {row.shared_bytes / 1024:10.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
