"""Which operators a fused block is made of, and what it keeps for the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mlp_mixer.kernels import fuse
from mlp_mixer.models import create_model


@contextlib.contextmanager
def precision(autocast: torch.dtype | None, tf32: bool) -> Iterator[None]:
    """Switch autocast for CUDA and TF32, as on a machine with a GPU.

    `torch.autocast("cuda", ...)` does nothing on a machine without one.
    """
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", autocast is not None)
    torch.set_autocast_dtype("cuda", autocast or before)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize(
    ("autocast", "tf32", "calls"),
    [
        (torch.bfloat16, False, 4),
        (torch.float16, True, 4),
        (None, False, 0),
        # TF32 or not, the plain layers are faster in float32.
        (None, True, 0),
    ],
    ids=str,
)
def test_on_a_gpu_each_block_is_one_operator(
    autocast: torch.dtype | None, tf32: bool, calls: int
) -> None:
    """On tensors that pretend to be on a GPU: what would run there, in which dtypes."""
    batch = 100
    dtype = autocast or torch.float32
    with torch.device("meta"):
        model = create_model("mixer_pico2")
    with FakeTensorMode(allow_non_fake_inputs=True):
        fused = fuse(model.to_empty(device="cuda"))
        image = torch.empty(batch, 3, 8, 8, device="cuda")
        with precision(autocast, tf32):
            graph = make_fx(fused)(image).graph
            logits = fused(image)
        operator = torch.ops.mlp_mixer.token_mix.default
        nodes = [node for node in graph.nodes if node.target is operator]
        assert len(nodes) == calls
        for node in nodes:
            assert node.args[0].meta["val"].dtype == dtype
        assert (logits.device.type, logits.dtype) == ("cuda", dtype)


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize(
    ("images", "channels", "fused"),
    [
        (99, 64, 0),
        (100, 128, 1),
        (50, 129, 1),
        (49, 256, 0),
        (16, 768, 0),
        (17, 768, 1),
    ],
)
def test_a_few_images_stay_plain(images: int, channels: int, fused: int) -> None:
    """A program takes 128 channels of an image, and a hundred programs are worth it."""
    with torch.device("meta"):
        model = create_model("mixer_pico2", num_blocks=1, hidden_dim=channels)
        model = model.bfloat16().eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = fuse(model.to_empty(device="cuda"))
        image = torch.empty(images, 3, 8, 8, device="cuda", dtype=torch.bfloat16)
        graph = make_fx(model)(image).graph
    operator = torch.ops.mlp_mixer.token_mix.default
    assert sum(node.target is operator for node in graph.nodes) == fused


@pytest.mark.usefixtures("capable")
def test_a_compiled_training_step_keeps_less_than_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the compiler's own partitioner hands from forward to backward pass.

    Of one block of B/16 in bf16.
    """
    from mlp_mixer.kernels.block import FusedBlock

    monkeypatch.setattr(FusedBlock, "_can_fuse", lambda self, x: True)
    kept: list[int] = []

    def count(graph: torch.fx.GraphModule, _: object) -> None:
        output = next(node for node in graph.graph.nodes if node.op == "output")
        total = 0
        for node in output.args[0]:
            # Inputs are there anyway: the images and the weights.
            if node is None or node.op == "placeholder":
                continue
            if isinstance(node.meta["val"], Tensor):
                total += node.meta["val"].nbytes
        kept.append(total)
        raise RuntimeError("nothing is to be computed")

    backend = aot_autograd(
        fw_compiler=count,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    plain = create_model("mixer_b16", num_blocks=1, gelu="erf").bfloat16()
    image = torch.zeros(4, 3, 224, 224).bfloat16()
    for model in (plain, fuse(plain)):
        torch.compiler.reset()
        with pytest.raises(Exception, match="nothing is to be computed"):
            torch.compile(model, backend=backend, fullgraph=True)(image)
    assert len(kept) == 2
    # The count is of this network: both hidden layers, before and after GELU, take
    # 3.5 MB for each image.
    assert kept[0] > 4 * 4e6
    assert kept[1] < 0.5 * kept[0]
