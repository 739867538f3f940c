"""What `fuse` says and does where there is no GPU, or where one is only imagined."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mlp_mixer import UserError
from mlp_mixer.kernels import available, fuse, network, selfcheck, why_not, with_kernels
from mlp_mixer.kernels.tiles import MOST_TOKENS, padded_hidden, parts
from mlp_mixer.models import MlpMixer, create_model


@pytest.fixture(autouse=True)
def _machine_is_looked_at_anew() -> Iterator[None]:
    known = network._machine_lacks
    known.cache_clear()
    yield
    known.cache_clear()


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machine had all that is needed."""
    pytest.importorskip("triton")
    monkeypatch.setattr(network, "_machine_lacks", lambda device: None)


def test_the_machine_s_reasons_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mixer_pico2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda name: name)
    assert why_not(model) == "there is no CUDA device"
    assert not available()
    assert why_not(model, "cpu") == "the kernel needs a CUDA device, not cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, reason in (
        ((7, 5), "compute capability 7.5 is older than 8.0"),
        ((9, 0), None),
    ):
        network._machine_lacks.cache_clear()
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, it=capability: it
        )
        assert why_not(model) == reason
        assert available() == (reason is None)
    network._machine_lacks.cache_clear()
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda name: None)
    assert why_not(model) == "triton is not installed"


def test_without_a_gpu_the_model_stays_as_it_is_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create_model("mixer_pico2")
    monkeypatch.setattr(
        network, "_machine_lacks", lambda device: "there is no CUDA device"
    )
    with pytest.warns(
        UserWarning, match="^token mixing stays plain: there is no CUDA device$"
    ):
        assert fuse(model) is model


@pytest.mark.usefixtures("capable")
def test_the_model_s_reasons_are_words() -> None:
    assert why_not(create_model("mixer_pico2")) is None
    large = MlpMixer(create_model("mixer_pico2", image_size=64).config)
    assert (
        why_not(large)
        == f"it has 1024 tokens, and the kernel holds at most {MOST_TOKENS}"
    )
    dropping = create_model("mixer_pico2", dropout=0.1)
    assert (
        why_not(dropping)
        == "dropout inside the MLPs is on in training, and the kernel has none"
    )
    assert why_not(dropping.eval()) is None
    assert (
        why_not(create_model("mixer_pico2").double())
        == "its parameters are float64, and the kernel sums in float32"
    )


@pytest.mark.usefixtures("capable")
def test_a_fused_model_on_the_cpu_is_the_plain_one_compiled_or_not() -> None:
    model = create_model("mixer_pico2", num_classes=3)
    image = torch.randn(2, 3, 8, 8)
    torch.nn.init.normal_(model.head.weight)
    fused = fuse(model)
    assert type(fused.blocks[0]).__name__ == "FusedBlock"
    assert torch.equal(fused(image), model(image))
    assert torch.equal(
        torch.compile(fused, fullgraph=True, backend="aot_eager")(image), model(image)
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(image), model(image))


@contextlib.contextmanager
def precision(autocast: torch.dtype | None, tf32: bool) -> Iterator[None]:
    """`torch.autocast("cuda", ...)`, which does nothing on a machine without a GPU, and
    whether TF32 is allowed.
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
        (torch.float16, False, 4),
        (None, False, 0),
        (None, True, 4),
    ],
    ids=str,
)
def test_on_a_gpu_each_block_is_one_operator(
    autocast: torch.dtype | None, tf32: bool, calls: int
) -> None:
    """On tensors that pretend to be on a GPU: what would run there, and in which
    dtypes.
    """
    with torch.device("meta"):
        model = create_model("mixer_pico2")
    with FakeTensorMode(allow_non_fake_inputs=True):
        fused = fuse(model.to_empty(device="cuda"))
        image = torch.empty(2, 3, 8, 8, device="cuda")

        with precision(autocast, tf32):
            graph = make_fx(fused)(image).graph
            logits = fused(image)
        nodes = [
            node
            for node in graph.nodes
            if node.target is torch.ops.mlp_mixer.token_mix.default
        ]
        assert len(nodes) == calls
        assert {node.args[0].meta["val"].dtype for node in nodes} <= {
            autocast or torch.float32
        }
        assert (logits.device.type, logits.dtype) == ("cuda", autocast or torch.float32)


def test_tokens_are_cut_with_little_to_spare() -> None:
    assert [parts(n) for n in (1, 49, 64, 100, 196, 256)] == [
        (16,),
        (64,),
        (64,),
        (64, 32, 16),
        (128, 64, 16),
        (256,),
    ]
    for n in range(1, MOST_TOKENS + 1):
        assert n <= sum(parts(n)) <= max(16, 1 << (n - 1).bit_length())
        assert all(part >= 16 and part & (part - 1) == 0 for part in parts(n))
        assert len(parts(n)) <= 3
    assert [padded_hidden(n) for n in (1, 24, 64, 129, 384)] == [16, 32, 64, 256, 384]


def test_importing_the_kernels_does_not_import_triton() -> None:
    code = "import sys, mlp_mixer.kernels; sys.exit('mlp_mixer.kernels.ops' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("capable")
def test_training_takes_the_kernels_only_where_they_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On tensors that pretend to be on a GPU, where nothing can be computed, so that
    the check's answer is imagined.
    """
    reasons: list[str | None] = [
        None,
        "the output is off by 1 here",
        "the output is off by 1 here",
    ]
    asked = []
    monkeypatch.setattr(
        selfcheck,
        "self_check",
        lambda model, dtype: asked.append(dtype) or reasons.pop(0),
    )
    with torch.device("meta"):
        model = create_model("mixer_pico2")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cuda")
        fused, notes = with_kernels(model, "auto", "fp32")
        assert type(fused.blocks[0]).__name__ == "FusedBlock"
        assert notes == ("token mixing is fused",)
        assert with_kernels(model, "auto", "fp32") == (
            model, ("token mixing stays plain: the output is off by 1 here",)
        )  # fmt: skip
        with pytest.raises(
            UserError,
            match="^train.kernels=fused cannot be: the output is off by 1 here; use train.k",
        ):
            with_kernels(model, "fused", "fp32")
        assert with_kernels(model, "plain", "fp32") == (model, ())
    assert asked == [torch.float32] * 3


def test_without_a_gpu_fused_training_is_refused_and_auto_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        network,
        "_machine_lacks",
        lambda device: f"the kernel needs a CUDA device, not {device.type}",
    )
    model = create_model("mixer_pico2")
    assert with_kernels(model, "auto", "auto") == (model, ())
    with pytest.raises(
        UserError,
        match="cannot be: the kernel needs a CUDA device, not cpu; use train.kernels=auto",
    ):
        with_kernels(model, "fused", "auto")


@pytest.mark.usefixtures("capable")
def test_a_compiled_training_step_keeps_less_than_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the compiler's own partitioner hands from the forward to the backward pass
    of a block of B/16 in bf16.
    """
    from mlp_mixer.kernels.block import FusedBlock

    monkeypatch.setattr(FusedBlock, "_can_fuse", lambda self, x: True)
    kept: list[int] = []

    def count(graph: torch.fx.GraphModule, _: object) -> None:
        (handed,) = next(node for node in graph.graph.nodes if node.op == "output").args
        made = [
            node.meta["val"]
            for node in handed
            if node is not None and node.op != "placeholder"
        ]
        kept.append(
            sum(value.nbytes for value in made if isinstance(value, torch.Tensor))
        )
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
    assert (
        kept[0] > 4 * 4e6
    )  # the count is of this network: both hidden layers, before and after GELU, are 3.5 MB
    assert kept[1] < 0.5 * kept[0]
