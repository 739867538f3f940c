"""The fused token mixing on a real GPU, at the sizes of the paper. Skipped without one
that can run it.

The rule for every number: the kernel's distance from float64 is at most twice (a
    gradient's: three times) that of the
plain layers in the same dtype.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_mixer import create_model
from mlp_mixer.kernels import available, fp8, fuse, self_check, why_not, with_kernels
from mlp_mixer.kernels.float8 import Fp8Linear, rounded_rows
from mlp_mixer.models import MlpMixer
from mlp_mixer.runtime.cuda_graph import graphed
from mlp_mixer.runtime.engines import plain as plain_run

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not available(),
    reason="no CUDA device that runs the kernels",
)

DEVICE = "cuda"
NAMES = ("y", "x", "gamma", "beta", "w1", "b1", "w2", "b2")
SHAPES = {  # B, S, C, D
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


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


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
    x_BCS = F.layer_norm(x, (x.shape[-1],), gamma, beta, 1e-6).transpose(1, 2)
    hidden = F.gelu(F.linear(x_BCS, w1, b1), approximate="tanh" if tanh else "none")
    return x + F.linear(hidden, w2, b2).transpose(1, 2) * scale[:, None, None]


def tensors(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> tuple[list[Tensor], Tensor, Tensor]:
    """x and the parameters, each image's factor of the branch, and a gradient from
    above.
    """
    B, S, C, D = shape
    made = [
        # its storage begins an image late, so that small odd ones are not aligned
        (
            2 * torch.randn(B + 1, S, C, device=DEVICE)
            + torch.randn(B + 1, S, 1, device=DEVICE)
        ).to(dtype)[1:],
        1 + 0.3 * torch.randn(C, device=DEVICE),
        0.3 * torch.randn(C, device=DEVICE),
        torch.randn(D, S, device=DEVICE) / S**0.5,
        0.3 * torch.randn(D, device=DEVICE),
        torch.randn(S, D, device=DEVICE) / D**0.5,
        0.3 * torch.randn(S, device=DEVICE),
    ]
    scale = torch.tensor([1.0, 1.25, 0.0], device=DEVICE)[
        torch.arange(B, device=DEVICE) % 3
    ].to(dtype)
    return (
        [t.to(dtype) for t in made],
        scale,
        torch.randn(B, S, C, device=DEVICE).to(dtype),
    )


def results(
    inputs: list[Tensor],
    scale: Tensor,
    dy: Tensor,
    tanh: bool,
    dtype: torch.dtype | None,
    deterministic: bool = True,
) -> list[Tensor]:
    """The output and all gradients: plainly in `dtype`, or by the kernels (None) in
    that of the inputs.
    """
    from mlp_mixer.kernels import ops

    leaves = [t.to(dtype or t.dtype).detach().requires_grad_() for t in inputs]
    if dtype is None:
        y = ops.token_mix(*leaves, scale, 1e-6, tanh, deterministic)[0]
    else:
        y = plain(*leaves, scale.to(dtype), tanh)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def assert_close_as_plain(
    kernel: list[Tensor], plain: list[Tensor], exact: list[Tensor]
) -> None:
    for name, ours, theirs, truth in zip(NAMES, kernel, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        ours_off = (ours.double() - truth).abs().max()
        theirs_off = (theirs.double() - truth).abs().max()
        allowed = (2 if name == "y" else 3) * theirs_off + torch.finfo(
            ours.dtype
        ).eps * truth.abs().max()
        assert ours_off <= allowed, (
            f"{name}: off by {ours_off:.3g}, the plain layers by {theirs_off:.3g}"
        )


@pytest.mark.parametrize("tanh", [True, False], ids=["tanh", "erf"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_half_precision_errs_no_more_than_the_plain_layers(
    shape: tuple[int, int, int, int], dtype: torch.dtype, tanh: bool
) -> None:
    inputs, scale, dy = tensors(shape, dtype)
    exact, theirs, ours = (
        results(inputs, scale, dy, tanh, kind) for kind in (torch.float64, dtype, None)
    )
    assert_close_as_plain(ours, theirs, exact)


@pytest.mark.parametrize("allowed", [False, True], ids=["ieee", "tf32"])
@pytest.mark.parametrize("name", ["s32", "b16", "odd", "one_token"])
def test_float32_errs_no_more_than_the_plain_layers(name: str, allowed: bool) -> None:
    inputs, scale, dy = tensors(SHAPES[name], torch.float32)
    with tf32(allowed):
        exact, theirs, ours = (
            results(inputs, scale, dy, True, kind)
            for kind in (torch.float64, torch.float32, None)
        )
    if (
        allowed
    ):  # the plain layers may still run without TF32 where a shape does not suit cuBLAS
        for name, a, b in zip(NAMES, ours, exact, strict=True):
            assert (a.double() - b).abs().max() <= 5e-3 * b.abs().max(), name
    else:
        assert_close_as_plain(ours, theirs, exact)


def test_a_large_batch_is_like_its_images() -> None:
    """More programs than multiprocessors, offsets past 2^31 bytes, gradients summed
    over many images.
    """
    inputs, scale, dy = tensors((1024, 196, 1024, 512), torch.bfloat16)
    from mlp_mixer.kernels import ops

    whole = ops.token_mix(*inputs, scale, 1e-6, True, True)
    last = ops.token_mix(inputs[0][-2:], *inputs[1:], scale[-2:], 1e-6, True, True)
    assert all(torch.equal(a[-2:], b) for a, b in zip(whole, last, strict=True))
    _, mean, rstd = whole
    x, gamma, beta, w1, b1, w2, _ = inputs
    dx = ops.token_mix_backward(
        dy, x, mean, rstd, gamma, beta, w1, b1, w2, scale, True, True
    )
    part = slice(-2, None)
    few = ops.token_mix_backward(
        dy[part],
        x[part],
        mean[part],
        rstd[part],
        gamma,
        beta,
        w1,
        b1,
        w2,
        scale[part],
        True,
        True,
    )
    assert torch.equal(dx[0][part], few[0])
    assert all(bool(t.isfinite().all()) for t in dx)


def test_a_fixed_order_of_sums_repeats_every_bit_and_atomics_agree() -> None:
    inputs, scale, dy = tensors((64, 196, 768, 384), torch.bfloat16)
    first, again = (results(inputs, scale, dy, True, None) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    atomic = results(inputs, scale, dy, True, None, deterministic=False)
    for name, a, b in zip(NAMES, first, atomic, strict=True):
        assert (a.double() - b.double()).abs().max() <= 1e-2 * a.double().abs().max(), (
            name
        )


def network(name: str, **changes: object) -> MlpMixer:
    model = create_model(name, num_classes=10, **changes).to(DEVICE)  # type: ignore[arg-type]
    nn.init.normal_(model.head.weight, std=0.1)
    return model


def images(model: MlpMixer, n: int) -> Tensor:
    return torch.randn(n, 3, *model.config.image_size, device=DEVICE)


def off(ours: Tensor, truth: Tensor) -> float:
    ours = ours.detach().double()
    truth = truth.detach().double()
    return float((ours - truth).norm() / truth.norm())


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
        grads.append(torch.autograd.grad(logits.float().square().sum(), parameters))
    assert outputs[0].dtype == outputs[1].dtype
    assert off(outputs[1], truth) <= 2 * off(outputs[0], truth)
    flat = [torch.cat([g.flatten() for g in some]) for some in (*grads, true_grads)]
    assert off(flat[1], flat[2]) <= 3 * off(flat[0], flat[2])
    assert {g.dtype for g in grads[1]} == {torch.float32}


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
        grads.append(
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        logits.float().sum(), model.parameters()
                    )
                ]
            )
        )
    assert off(outputs[1], truth) <= 2 * off(outputs[0], truth) + 1e-3
    assert off(grads[1], grads[0]) <= 0.05


def test_a_cuda_graph_replays_inference_and_training() -> None:
    model = network("mixer_s16")
    fused = fuse(model.bfloat16())
    image = images(model, 8).bfloat16()
    parameters = list(fused.parameters())

    def step() -> list[Tensor]:
        logits = fused(image)
        return [logits, *torch.autograd.grad(logits.float().square().sum(), parameters)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles what will be captured
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    image.copy_(torch.randn_like(image))
    graph.replay()
    expected = step()
    assert torch.equal(captured[0], expected[0])
    for ours, theirs in zip(captured, expected, strict=True):
        assert off(ours, theirs) <= 1e-2


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
    assert max(gaps) <= 0.05  # bf16 and float32 on a CPU: 0.002
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
        one = torch.compile(one) if compiled else one  # type: ignore[assignment]
        with torch.autocast(DEVICE, torch.bfloat16):
            one(
                image
            ).float().sum().backward()  # compiles, and leaves the gradients' memory behind
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            logits = one(image)
        memory = torch.cuda.memory_allocated() - before
        logits.float().sum().backward()
        return memory / n / 2**20

    plain_mib = kept(model)
    fused_mib = kept(fuse(model))
    print(
        f"\nMixer-B/16 under bf16 autocast keeps {plain_mib:.1f} MiB for each image, fused {fused_mib:.1f}"
    )
    assert fused_mib < most * plain_mib


@pytest.mark.parametrize("name", ["mixer_s32", "mixer_b16", "mixer_tiny4"])
def test_the_device_checks_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlp_mixer.kernels import block, ops

    model = network(name)
    assert self_check(model, torch.bfloat16) is None
    fused, notes = with_kernels(model, "auto", "bf16")
    assert fused is not model
    assert notes == ("token mixing is fused",)
    without_bias = lambda *given: ops.token_mix(*given[:4], 0 * given[4], *given[5:])  # noqa: E731
    monkeypatch.setattr(block, "token_mix", without_bias)
    assert "the output is off by" in (self_check(model, torch.bfloat16) or "")


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="no products in fp8",
)
@pytest.mark.parametrize("rows", [1, 17, 256, 8 * 196])
def test_an_fp8_product_is_that_of_the_rounded_numbers(rows: int) -> None:
    linear = nn.Linear(768, 3072).to(DEVICE)
    x = torch.randn(rows, 768, device=DEVICE).bfloat16()
    (left, of_left) = rounded_rows(x)
    (right, of_right) = rounded_rows(linear.weight.detach())
    exact = (left.double() * of_left) @ (
        right.double() * of_right
    ).t() + linear.bias.double()
    assert (
        off(Fp8Linear(linear)(x), exact) < 5e-3
    )  # bf16 rounds to 2e-3, Hopper's fast accumulation to 14 bits


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="no products in fp8",
)
@pytest.mark.parametrize("compiled", [False, True])
def test_fp8_and_fused_it_answers_as_on_the_cpu(compiled: bool) -> None:
    model = network("mixer_s16").eval()
    image = images(model, 8)
    with torch.inference_mode():
        truth = model(image)
        here = fp8(copy.deepcopy(model).cpu())(image.bfloat16().cpu())
        ours = fuse(fp8(model))
        ours = torch.compile(ours, fullgraph=True) if compiled else ours
        there = ours(image.bfloat16())
    print(
        f"\nfp8 is {off(there, truth):.3f} from fp32, on the CPU {off(here.to(DEVICE), truth):.3f}"
    )
    assert off(there, truth) < 1.3 * off(here.to(DEVICE), truth)
    assert off(there, truth) < 0.1


@pytest.mark.parametrize("kind", ["plain", "fused", "compiled", "fp8"])
def test_graphs_answer_as_the_network_and_see_new_weights(kind: str) -> None:
    if kind == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no products in fp8")
    exact = network("mixer_s16").eval()
    model = fp8(exact) if kind == "fp8" else copy.deepcopy(exact).bfloat16()
    model = model if kind == "plain" else fuse(model)
    run = plain_run(torch.compile(model) if kind == "compiled" else model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a graph that cannot be made warns
        ask = graphed(run)
        answers = []
        for n in (1, 8, 1, 65, 8):
            image = images(model, n).bfloat16()
            answers.append((ask(image), run(image)))
        model.head.bias.data += 1
        answers.append((ask(image), run(image)))
    for ours, theirs in answers:
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=1e-2 * float(theirs.abs().max())
        )
    assert not torch.allclose(answers[-1][0], answers[-2][0])
