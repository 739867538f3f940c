"""The fused token mixing on a real GPU, at the sizes of the paper.

Skipped without a GPU that can run it. The rule for every number: the kernel's distance
from float64 is at most twice that of the plain layers in the same dtype, a gradient's
three times.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_mixer import create_model
from mlp_mixer.kernels import available, fp8, fuse, self_check, why_not, with_kernels
from mlp_mixer.kernels.float8 import Fp8Linear, rounded_rows
from mlp_mixer.models import IsotropicMlp
from mlp_mixer.runtime.cuda_graph import graphed
from mlp_mixer.runtime.engines import plain as plain_run

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not available(),
    reason="no CUDA device that runs the kernels",
)

DEVICE = "cuda"
NAMES = ("y", "x", "gamma", "beta", "w1", "b1", "w2", "b2")


@pytest.fixture(autouse=True)
def _few_images_are_fused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_mixer.kernels import block

    monkeypatch.setattr(block, "LEAST_PROGRAMS", 1)


# B, S, C, D
Shape = tuple[int, int, int, int]
SHAPES: dict[str, Shape] = {
    "s32": (8, 49, 512, 256),
    "s16": (4, 196, 512, 256),
    "b16": (4, 196, 768, 384),
    "l16": (2, 196, 1024, 512),
    "h14": (2, 256, 1280, 640),
    "tiny4": (16, 64, 256, 128),
    "odd": (3, 49, 37, 24),
    "one_token": (2, 1, 64, 5),
    "hundred_tokens": (5, 100, 200, 130),
}

needs_fp8 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="no products in fp8",
)


def relative_error(ours: Tensor, truth: Tensor) -> float:
    """The norm of the difference, in units of the norm of the truth."""
    ours = ours.detach().double()
    truth = truth.detach().double()
    return float((ours - truth).norm() / truth.norm())


def largest_error(ours: Tensor, truth: Tensor) -> float:
    """The largest difference, in units of the largest number of the truth."""
    ours = ours.detach().double()
    truth = truth.detach().double()
    return float((ours - truth).abs().max() / truth.abs().max())


def plain(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    scale: Tensor,
    tanh: bool,
) -> Tensor:
    """The token branch of torch's own layers."""
    x_BCS = F.layer_norm(x, (x.shape[-1],), gamma, beta, 1e-6).transpose(1, 2)
    hidden = F.gelu(F.linear(x_BCS, w1, b1), approximate="tanh" if tanh else "none")
    return x + F.linear(hidden, w2, b2).transpose(1, 2) * scale[:, None, None]


def randn(*size: int) -> Tensor:
    return torch.randn(*size, device=DEVICE)


def tensors(shape: Shape, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    """x and the parameters, each image's factor of the branch, a gradient from above."""
    B, S, C, D = shape
    # The storage of x begins an image early, so that small odd ones are not aligned.
    x = 2 * randn(B + 1, S, C) + randn(B + 1, S, 1)
    parameters = [
        1 + 0.3 * randn(C),
        0.3 * randn(C),
        randn(D, S) / S**0.5,
        0.3 * randn(D),
        randn(S, D) / D**0.5,
        0.3 * randn(S),
    ]
    factors = torch.tensor([1.0, 1.25, 0.0], device=DEVICE)
    scale = factors[torch.arange(B, device=DEVICE) % 3].to(dtype)
    inputs = [x.to(dtype)[1:], *[t.to(dtype) for t in parameters]]
    return inputs, scale, randn(B, S, C).to(dtype)


def results(
    inputs: list[Tensor],
    scale: Tensor,
    dy: Tensor,
    tanh: bool,
    dtype: torch.dtype | None,
    deterministic: bool = True,
) -> list[Tensor]:
    """The output and all gradients.

    Plainly in `dtype`; with None by the kernels, in the dtype of the inputs.
    """
    from mlp_mixer.kernels import ops

    leaves = [t.to(dtype or t.dtype).detach().requires_grad_() for t in inputs]
    if dtype is None:
        y, _, _ = ops.token_mix(*leaves, scale, 1e-6, tanh, deterministic)
    else:
        y = plain(*leaves, scale.to(dtype), tanh)
    grads = torch.autograd.grad(y, leaves, dy.to(y.dtype))
    return [y.detach(), *grads]


def assert_close_as_plain(
    kernel: list[Tensor], plain: list[Tensor], exact: list[Tensor]
) -> None:
    """The rule of this file, and one rounding of the largest number."""
    for name, ours, theirs, truth in zip(NAMES, kernel, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        our_error = largest_error(ours, truth)
        plain_error = largest_error(theirs, truth)
        factor = 2 if name == "y" else 3
        rounding = torch.finfo(ours.dtype).eps
        assert our_error <= factor * plain_error + rounding, (
            f"{name}: off by {our_error:.3g}, the plain layers by {plain_error:.3g}"
        )


@pytest.mark.parametrize("tanh", [True, False], ids=["tanh", "erf"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_half_precision_errs_no_more_than_the_plain_layers(
    shape: Shape, dtype: torch.dtype, tanh: bool
) -> None:
    inputs, scale, dy = tensors(shape, dtype)
    exact = results(inputs, scale, dy, tanh, torch.float64)
    theirs = results(inputs, scale, dy, tanh, dtype)
    ours = results(inputs, scale, dy, tanh, None)
    assert_close_as_plain(ours, theirs, exact)


def test_a_large_batch_is_like_its_images() -> None:
    """More programs than multiprocessors, and gradients summed over many images.

    Offsets go past 2^31 bytes.
    """
    from mlp_mixer.kernels import ops

    (x, *weights), scale, dy = tensors((1024, 196, 1024, 512), torch.bfloat16)
    last = slice(-2, None)
    all_images = ops.token_mix(x, *weights, scale, 1e-6, True, True)
    two_images = ops.token_mix(x[last], *weights, scale[last], 1e-6, True, True)
    for one, other in zip(all_images, two_images, strict=True):
        # bf16 keeps 8 bits.
        assert largest_error(one[last], other) <= 2**-8

    _, mean, rstd = all_images
    gamma, beta, w1, b1, w2, _ = weights
    weights = [gamma, beta, w1, b1, w2]
    options = (True, True, True)
    grads = ops.token_mix_backward(dy, x, mean, rstd, *weights, scale, *options)
    for gradient in grads:
        assert gradient.isfinite().all()
    given = [tensor[last] for tensor in (dy, x, mean, rstd)]
    few = ops.token_mix_backward(*given, *weights, scale[last], *options)
    assert largest_error(grads[0][last], few[0]) <= 2**-8


def test_a_fixed_order_of_sums_repeats_every_bit_and_atomics_agree() -> None:
    inputs, scale, dy = tensors((64, 196, 768, 384), torch.bfloat16)
    first = results(inputs, scale, dy, True, None)
    again = results(inputs, scale, dy, True, None)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    atomic = results(inputs, scale, dy, True, None, deterministic=False)
    for name, a, b in zip(NAMES, atomic, first, strict=True):
        assert largest_error(a, b) <= 1e-2, name


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors in one."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def network(name: str, **changes: object) -> IsotropicMlp:
    """A network whose head is not zero."""
    model = create_model(name, num_classes=10, **changes).to(DEVICE)  # type: ignore[arg-type]
    nn.init.normal_(model.head.weight, std=0.1)
    return model


def images(model: IsotropicMlp, n: int) -> Tensor:
    return torch.randn(n, 3, *model.config.image_size, device=DEVICE)


@pytest.mark.parametrize("name", ["mixer_s32", "mixer_b16", "mixer_tiny4"])
def test_networks_and_their_gradients_under_autocast(name: str) -> None:
    model = network(name)
    assert why_not(model) is None
    fused = fuse(model)
    image = images(model, 8)
    parameters = list(model.parameters())
    truth = model(image)
    true_grads = torch.autograd.grad(truth.square().sum(), parameters)
    outputs = []
    grads = []
    for one in (model, fused):
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = one(image)
        outputs.append(logits)
        loss = logits.float().square().sum()
        grads.append(torch.autograd.grad(loss, parameters))
    assert outputs[0].dtype == outputs[1].dtype
    assert relative_error(outputs[1], truth) <= 2 * relative_error(outputs[0], truth)
    exact = flat(true_grads)
    plain_error = relative_error(flat(grads[0]), exact)
    assert relative_error(flat(grads[1]), exact) <= 3 * plain_error
    assert {gradient.dtype for gradient in grads[1]} == {torch.float32}


@pytest.mark.parametrize("training", [False, True])
def test_compiled_whole_it_is_as_exact(training: bool) -> None:
    model = network("mixer_s32", drop_path=0.2).train(training)
    fused = fuse(model)
    image = images(model, 8)
    draws = torch.rand(8, 8, 2, device=DEVICE)
    compiled = torch.compile(fused, fullgraph=True)
    truth = model(image, draws)
    outputs = []
    grads = []
    for one in (fused, compiled):
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = one(image, draws)
        outputs.append(logits)
        loss = logits.float().sum()
        grads.append(flat(torch.autograd.grad(loss, model.parameters())))
    fused_error = relative_error(outputs[0], truth)
    assert relative_error(outputs[1], truth) <= 2 * fused_error + 1e-3
    assert relative_error(grads[1], grads[0]) <= 0.05


def test_a_cuda_graph_replays_inference_and_training() -> None:
    model = network("mixer_s16")
    fused = fuse(model.bfloat16())
    image = images(model, 8).bfloat16()
    parameters = list(fused.parameters())

    def step() -> list[Tensor]:
        logits = fused(image)
        loss = logits.float().square().sum()
        return [logits, *torch.autograd.grad(loss, parameters)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # Compiles the kernels that will be captured.
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    image.copy_(torch.randn_like(image))
    graph.replay()
    expected = step()
    for ours, theirs in zip(captured, expected, strict=True):
        assert relative_error(ours, theirs) <= 1e-2


def test_it_trains_in_lockstep_with_the_plain_network() -> None:
    plain_one = network("mixer_nano4", drop_path=0.1)
    fused_one = fuse(copy.deepcopy(plain_one))
    image = images(plain_one, 64)
    label = torch.arange(64, device=DEVICE) % 10
    curves: list[list[float]] = []
    for one in (plain_one, fused_one):
        generator = torch.Generator(DEVICE).manual_seed(1)
        optimizer = torch.optim.AdamW(one.parameters(), lr=3e-4)
        curve = []
        for _ in range(100):
            draws = torch.rand(64, 8, 2, device=DEVICE, generator=generator)
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = F.cross_entropy(one(image, draws).float(), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
        curves.append(curve)
    gaps = [abs(a - b) for a, b in zip(*curves, strict=True)]
    assert max(gaps[:10]) <= 0.02
    # bf16 and float32 differ by 0.002 on a CPU.
    assert max(gaps) <= 0.05
    assert curves[0][-1] < curves[0][0] / 2


@pytest.mark.parametrize(
    ("compiled", "most"), [(False, 0.6), (True, 0.5)], ids=["eager", "compiled"]
)
def test_training_keeps_less_for_each_image(compiled: bool, most: float) -> None:
    model = network("mixer_b16")
    n = 128
    image = images(model, n)

    def kept(one: nn.Module) -> float:
        """MiB for each image between the forward and the backward pass."""
        run = torch.compile(one) if compiled else one
        with torch.autocast(DEVICE, torch.bfloat16):
            # Compiles, and leaves the memory of the gradients behind.
            run(image).float().sum().backward()
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            logits = run(image)
        memory = torch.cuda.memory_allocated() - before
        logits.float().sum().backward()
        return memory / n / 2**20

    plain_mib = kept(model)
    fused_mib = kept(fuse(model))
    print(f"\nB/16 under bf16 autocast keeps {plain_mib:.1f} MiB for each image,")
    print(f"fused {fused_mib:.1f}")
    assert fused_mib < most * plain_mib


@pytest.mark.parametrize("name", ["mixer_s32", "mixer_b16", "mixer_tiny4"])
def test_the_device_checks_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_mixer.kernels import block, ops

    model = network(name)
    assert self_check(model, torch.bfloat16) is None
    fused, notes = with_kernels(model, "auto", "bf16")
    assert fused is not model
    assert notes == ("token mixing is fused",)

    def without_bias(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma, beta, w1, b1, *rest = given
        return ops.token_mix(x, gamma, beta, w1, 0 * b1, *rest)

    monkeypatch.setattr(block, "token_mix", without_bias)
    assert "the output is off by" in (self_check(model, torch.bfloat16) or "")


@needs_fp8
@pytest.mark.parametrize("rows", [1, 17, 256, 8 * 196])
def test_an_fp8_product_is_that_of_the_rounded_numbers(rows: int) -> None:
    linear = nn.Linear(768, 3072).to(DEVICE)
    x = torch.randn(rows, 768, device=DEVICE).bfloat16()
    rows_e4m3, row_scales = rounded_rows(x)
    weight_e4m3, weight_scales = rounded_rows(linear.weight.detach())
    left = rows_e4m3.double() * row_scales
    right = weight_e4m3.double() * weight_scales
    exact = left @ right.t() + linear.bias.double()
    # bf16 rounds to 2e-3, Hopper's fast accumulation to 14 bits.
    assert relative_error(Fp8Linear(linear)(x), exact) < 5e-3


@needs_fp8
@pytest.mark.parametrize("compiled", [False, True])
def test_fp8_and_fused_it_answers_as_on_the_cpu(compiled: bool) -> None:
    model = network("mixer_s16").eval()
    image = images(model, 8)
    with torch.inference_mode():
        truth = model(image)
        here = fp8(copy.deepcopy(model).cpu())(image.bfloat16().cpu())
        ours: Any = fuse(fp8(model))
        if compiled:
            ours = torch.compile(ours, fullgraph=True)
        there = ours(image.bfloat16())
    on_gpu = relative_error(there, truth)
    on_cpu = relative_error(here.to(DEVICE), truth)
    print(f"\nfp8 is {on_gpu:.3f} from fp32, on the CPU {on_cpu:.3f}")
    assert on_gpu < 1.3 * on_cpu
    assert on_gpu < 0.1


@pytest.mark.parametrize("kind", ["plain", "fused", "compiled", "fp8"])
def test_graphs_answer_as_the_network_and_see_new_weights(kind: str) -> None:
    if kind == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no products in fp8")
    exact = network("mixer_s16").eval()
    model = fp8(exact) if kind == "fp8" else copy.deepcopy(exact).bfloat16()
    if kind != "plain":
        model = fuse(model)
    run = plain_run(torch.compile(model) if kind == "compiled" else model)
    answers = []
    with warnings.catch_warnings():
        # A graph that cannot be made warns.
        warnings.simplefilter("error")
        ask = graphed(run)
        for n in (1, 8, 1, 65, 8):
            image = images(model, n).bfloat16()
            answers.append((ask(image), run(image)))
        model.head.bias.data += 1
        answers.append((ask(image), run(image)))
    for ours, theirs in answers:
        assert largest_error(ours, theirs) <= 1e-2
    assert not torch.allclose(answers[-1][0], answers[-2][0])
