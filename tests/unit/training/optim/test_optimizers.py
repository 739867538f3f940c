"""Our own optimisers against references, other people's, and across a saved state."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from mlp_mixer.models import create_model
from mlp_mixer.training.config import OptimChoice
from mlp_mixer.training.optim.build import build_optimizer, set_lr
from mlp_mixer.training.optim.optimizers import (
    Lion,
    LowPrecisionSGD,
    Muon,
    orthogonalize,
)
from mlp_mixer.training.state import StateSaver, newest_state, restore

SETTINGS = {
    "adamw": OptimChoice(name="adamw"),
    "sgd": OptimChoice(name="sgd", nesterov=True),
    "sgd-bf16": OptimChoice(name="sgd", momentum_dtype="bf16"),
    "lion": OptimChoice(name="lion"),
    "lamb": OptimChoice(name="lamb"),
    "muon": OptimChoice(name="muon"),
    "muon-by-layer": OptimChoice(
        name="muon", layer_decay=0.8, muon_adamw_lr=0.1, muon_ns_dtype="bf16"
    ),
}


def mixer() -> nn.Module:
    torch.manual_seed(3)
    return create_model(
        "mixer_pico2",
        num_classes=4,
        in_channels=1,
        num_blocks=2,
        hidden_dim=16,
        tokens_mlp_dim=8,
        channels_mlp_dim=32,
    )


def gradients(parameters: Iterable[nn.Parameter], seed: int) -> None:
    """Give each parameter a gradient that is a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        shape = parameter.shape
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        parameter.grad = drawn.to(parameter.dtype)


def random_parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def copies(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(parameter.detach().clone()) for parameter in parameters]


def values_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of each parameter, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# Lion


def test_lion_number_by_number() -> None:
    """Algorithm 2 of arXiv 2302.06675 on single numbers."""
    b1 = 0.8
    b2 = 0.95
    decay = 0.2
    parameter = nn.Parameter(torch.tensor([[0.5, -1.0, 0.0]], dtype=torch.float64))
    bias = nn.Parameter(torch.tensor([0.25], dtype=torch.float64))
    groups = [
        {"params": [parameter], "weight_decay": decay},
        {"params": [bias], "weight_decay": 0.0},
    ]
    optimizer = Lion(groups, lr=0.1, betas=(b1, b2))
    values = [0.5, -1.0, 0.0, 0.25]
    decays = [decay, decay, decay, 0.0]
    momenta = [0.0] * 4
    for step in range(50):
        gradients([parameter, bias], step)
        assert parameter.grad is not None
        assert bias.grad is not None
        # Where gradient and momentum are zero, the sign is too.
        if step == 7:
            momenta[2] = 0.0
            parameter.grad[0, 2] = 0.0
            optimizer.state[parameter]["momentum"][0, 2] = 0.0
        lr = 0.1 / (1 + step)
        set_lr(optimizer, lr)
        flat = [*parameter.grad.flatten().tolist(), *bias.grad.tolist()]
        optimizer.step()
        for i, g in enumerate(flat):
            c = b1 * momenta[i] + (1 - b1) * g
            sign = 0 if c == 0 else math.copysign(1, c)
            values[i] = values[i] - lr * (sign + decays[i] * values[i])
            momenta[i] = b2 * momenta[i] + (1 - b2) * g
        found = [*parameter.flatten().tolist(), *bias.tolist()]
        assert found == pytest.approx(values, rel=1e-13, abs=1e-15)


def test_lion_is_timms() -> None:
    from timm.optim import Lion as Theirs

    ours = random_parameters((5, 3), (4,))
    theirs = copies(ours)
    our_optimizer = Lion([{"params": ours}], lr=0.01, weight_decay=0.1)
    their_optimizer = Theirs(theirs, lr=0.01, weight_decay=0.1)
    for step in range(20):
        gradients(ours, step)
        gradients(theirs, step)
        our_optimizer.step()
        their_optimizer.step()
    # A single sign that differs moves a weight by 0.02.
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


# SGD with a momentum of few bits


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_a_full_momentum_it_is_torchs_sgd(nesterov: bool, decay: float) -> None:
    ours = random_parameters((5, 3), (4,))
    theirs = copies(ours)
    settings: dict[str, Any] = {
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": nesterov,
        "weight_decay": decay,
    }
    groups = [{"params": ours}]
    our_optimizer = LowPrecisionSGD(groups, dtype=torch.float32, **settings)
    their_optimizer = torch.optim.SGD(theirs, **settings)
    for step in range(10):
        gradients(ours, step)
        gradients(theirs, step)
        our_optimizer.step()
        their_optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def in_bf16(x: np.ndarray) -> np.ndarray:
    """Round float32 to bf16, which is its upper half; ties go to even."""
    bits = np.atleast_1d(x).astype(np.float32).view(np.uint32).astype(np.uint64)
    last_kept_bit = (bits >> 16) & 1
    rounded = (bits + 0x7FFF + last_kept_bit) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def test_the_bf16_momentum_is_vit_jaxs() -> None:
    """`optax.trace(0.9, accumulator_dtype="bfloat16")` as XLA runs it.

    The step uses the new momentum; what is kept of it is rounded, and so is the factor.
    """
    parameter = nn.Parameter(torch.randn(7, 5))
    optimizer = LowPrecisionSGD([{"params": [parameter]}], lr=0.03, momentum=0.9)
    weight = parameter.detach().numpy().copy()
    momentum = np.zeros((7, 5), np.float32)
    factor = in_bf16(np.array(0.9))
    assert factor == 0.8984375
    for step in range(30):
        gradients([parameter], step)
        optimizer.step()
        assert parameter.grad is not None
        new = factor * momentum + parameter.grad.numpy()
        weight = weight - np.float32(0.03) * new
        momentum = in_bf16(new)
        kept = optimizer.state[parameter]["momentum"]
        assert kept.dtype == torch.bfloat16
        # A sum that is rounded once more may fall on the other side: one bf16 apart.
        np.testing.assert_allclose(kept.float().numpy(), momentum, rtol=2**-7)
        found = parameter.detach().numpy()
        np.testing.assert_allclose(found, weight, rtol=1e-6, atol=1e-6)


# Muon


def singular_values(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix.double())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16), (1, 5), (5, 1)])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
def test_orthogonalised_matrices_are_nearly_orthogonal(
    shape: tuple[int, int], dtype: torch.dtype, bound: float
) -> None:
    matrix = 1e-3 * torch.randn(shape)
    (found,) = orthogonalize([matrix], dtype=dtype)
    assert found.shape == matrix.shape
    assert found.dtype == matrix.dtype
    values = singular_values(found)
    assert 0.66 < values.min() <= values.max() < 1.22
    # The singular vectors are the same: U' X V is diagonal.
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ found @ vh.T
    rest = inner - torch.diag(inner.diagonal())
    assert rest.abs().max() < bound


def test_a_matrix_of_zeros_stays_one() -> None:
    (found,) = orthogonalize([torch.zeros(3, 4)])
    assert torch.equal(found, torch.zeros(3, 4))
    assert orthogonalize([]) == []


def test_stacked_is_one_by_one() -> None:
    shapes = [(8, 16), (16, 8), (8, 16), (6, 6), (16, 8), (4, 16)]
    matrices = [torch.randn(shape) for shape in shapes]
    together = orthogonalize(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        (alone,) = orthogonalize([matrix])
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)

    # And the quintic itself, written out once more.
    x = matrices[1].double()
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(5):
        gram = x.T @ x
        x = 3.4445 * x + x @ (-4.7750 * gram + 2.0315 * gram @ gram)
    torch.testing.assert_close(together[1].double(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
def test_muon_is_torchs(nesterov: bool, adjust_lr: str) -> None:
    """`torch.optim.Muon` computes in bf16, so the two can differ by bf16's grain."""
    ours = random_parameters((24, 12), (12, 24), (24, 12), (12, 12))
    theirs = copies(ours)
    settings: dict[str, Any] = {
        "lr": 0.02,
        "momentum": 0.9,
        "nesterov": nesterov,
        "weight_decay": 0.1,
        "ns_steps": 5,
    }
    their_optimizer = torch.optim.Muon(theirs, adjust_lr_fn=adjust_lr, **settings)
    groups = [{"params": ours, "matrices": True}]
    our_optimizer = Muon(groups, adjust_lr=adjust_lr, dtype=torch.bfloat16, **settings)
    for step in range(5):
        before = copies(ours)
        gradients(ours, step)
        gradients(theirs, step)
        our_optimizer.step()
        their_optimizer.step()
        for one, other, start in zip(ours, theirs, before, strict=True):
            moved = (one - start).detach()
            expected = (other - start).detach()
            assert (moved - expected).norm() < 5e-3 * expected.norm()
            # The next step starts from the same weights.
            other.data.copy_(one.data)


def test_muons_other_parameters_are_torchs_adamw() -> None:
    model = mixer()
    twin = copy.deepcopy(model)
    choice = OptimChoice(name="muon", lr=0.01, weight_decay=0.1, muon_adamw_lr=0.5)
    optimizer = build_optimizer(model, choice)
    groups = []
    others = {}
    for name, parameter in twin.named_parameters():
        if parameter.ndim == 2 and name.startswith("blocks."):
            continue
        others[name] = parameter
        decay = 0.1 if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "weight_decay": decay})
    adamw = torch.optim.AdamW(groups, lr=0.005, fused=True)
    for step in range(4):
        gradients(model.parameters(), step)
        gradients(twin.parameters(), step)
        optimizer.step()
        adamw.step()
    for name, parameter in others.items():
        found = model.get_parameter(name)
        torch.testing.assert_close(found, parameter, rtol=1e-6, atol=1e-7)


def test_layer_decay_scales_the_steps_of_stacked_matrices() -> None:
    """They are orthogonalised together, and yet each moves at its own rate."""
    lengths = {}
    for decay in (1.0, 0.5):
        model = mixer()
        start = values_of(model)
        choice = OptimChoice(name="muon", lr=0.01, weight_decay=0.0, layer_decay=decay)
        gradients(model.parameters(), 0)
        build_optimizer(model, choice).step()
        for name, value in values_of(model).items():
            lengths[decay, name] = (value - start[name]).norm().item()
    first = "blocks.0.mlp_tokens.fc1.weight"
    second = "blocks.1.mlp_channels.fc2.weight"
    assert lengths[0.5, first] == pytest.approx(0.25 * lengths[1.0, first], rel=1e-4)
    assert lengths[0.5, second] == pytest.approx(0.5 * lengths[1.0, second], rel=1e-4)


@pytest.mark.parametrize(
    ("adjust_lr", "scale"),
    [("original", math.sqrt(3)), ("match_rms_adamw", 0.2 * math.sqrt(48))],
)
def test_a_matrix_moves_as_far_as_its_scale_says(adjust_lr: str, scale: float) -> None:
    matrix = nn.Parameter(torch.zeros(48, 16))
    groups = [{"params": [matrix], "matrices": True}]
    optimizer = Muon(groups, lr=0.1, adjust_lr=adjust_lr)
    gradients([matrix], 0)
    optimizer.step()
    values = singular_values(matrix.detach()) / (0.1 * scale)
    assert 0.66 < values.min() <= values.max() < 1.22


def test_muon_learns_faster_than_sgd() -> None:
    """Cross-entropy on 256 fixed images of noise, 30 steps, the best of four rates."""
    images = torch.randn(256, 1, 8, 8)
    labels = torch.arange(256) % 4

    def final_loss(name: Any, lr: float) -> float:
        model = mixer()
        choice = OptimChoice(name=name, lr=lr, weight_decay=0.0)
        optimizer = build_optimizer(model, choice)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        return F.cross_entropy(model(images), labels).item()

    sgd = min(final_loss("sgd", lr) for lr in (0.03, 0.1, 0.3, 1.0))
    muon = min(final_loss("muon", lr) for lr in (0.003, 0.01, 0.03, 0.1))
    assert muon < 0.7 * sgd


# All of them


def begin(choice: OptimChoice) -> tuple[nn.Module, Optimizer]:
    model = mixer()
    return model, build_optimizer(model, choice)


def advance(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        gradients(model.parameters(), step)
        set_lr(optimizer, 0.01 / (1 + step))
        optimizer.step()


@pytest.mark.parametrize("choice", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_saved_state_goes_on_bit_for_bit(choice: OptimChoice, tmp_path: Path) -> None:
    unbroken, unbroken_optimizer = begin(choice)
    advance(unbroken, unbroken_optimizer, range(8))

    model, optimizer = begin(choice)
    advance(model, optimizer, range(5))
    saver = StateSaver(tmp_path)
    header = {"config": {}, "fingerprint": "", "best": None}
    saver.save(header, step=5, modules={"model": model}, optimizer=optimizer)
    saver.wait()
    state, _ = newest_state(tmp_path)
    assert state is not None

    resumed, resumed_optimizer = begin(choice)
    restore(state, {"model": resumed}, resumed_optimizer)
    after = resumed_optimizer.state_dict()["state"]
    for index, moments in optimizer.state_dict()["state"].items():
        assert moments.keys() == after[index].keys()
        for name, value in moments.items():
            assert value.dtype == after[index][name].dtype
    advance(resumed, resumed_optimizer, range(5, 8))
    values = values_of(resumed)
    for name, value in values_of(unbroken).items():
        assert torch.equal(values[name], value)


def test_muons_count_of_steps_is_restored_to_the_device_of_the_weights() -> None:
    """Fused AdamW wants it there; torch leaves it on the CPU unless it is told."""
    model = mixer().to("meta")
    optimizer = build_optimizer(model, OptimChoice(name="muon"))
    last = sum(len(group["params"]) for group in optimizer.param_groups) - 1
    moments = {
        "step": torch.tensor(3.0),
        "exp_avg": torch.zeros(4),
        "exp_avg_sq": torch.zeros(4),
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {last: moments}, "param_groups": groups})
    (restored,) = optimizer.state.values()
    assert {value.device.type for value in restored.values()} == {"meta"}


@pytest.mark.parametrize("choice", SETTINGS.values(), ids=SETTINGS.keys())
def test_what_has_no_gradient_stays(choice: OptimChoice) -> None:
    model, optimizer = begin(choice)
    # No parameter has one.
    optimizer.step()
    start = values_of(model)
    for parameter in model.get_submodule("head").parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = set()
    for name, value in values_of(model).items():
        if not torch.equal(value, start[name]):
            moved.add(name)
    assert moved == {"head.weight", "head.bias"}
    copy.deepcopy(optimizer).step()
