"""Our own optimisers against references written out, against other people's, and across
a saved state.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    "adamw": {"name": "adamw"},
    "sgd": {"name": "sgd", "nesterov": True},
    "sgd-bf16": {"name": "sgd", "momentum_dtype": "bf16"},
    "lion": {"name": "lion"},
    "muon": {"name": "muon"},
    "muon-by-layer": {
        "name": "muon",
        "layer_decay": 0.8,
        "muon_adamw_lr": 0.1,
        "muon_ns_dtype": "bf16",
    },
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


def gradients(parameters: Any, seed: int) -> None:
    """A gradient that is a function of the seed, for each parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        ).to(parameter.dtype)


def copies(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(parameter.detach().clone()) for parameter in parameters]


# --- Lion


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
    momenta = [0.0] * 4
    for step in range(50):
        gradients([parameter, bias], step)
        if step == 7:
            parameter.grad[0, 2] = momenta[2] = 0.0  # type: ignore[index]
            optimizer.state[parameter]["momentum"][0, 2] = 0.0
        lr = 0.1 / (1 + step)
        set_lr(optimizer, lr)
        flat = [*parameter.grad.flatten().tolist(), *bias.grad.tolist()]  # type: ignore[union-attr]
        optimizer.step()
        for i, g in enumerate(flat):
            c = b1 * momenta[i] + (1 - b1) * g
            sign = 0 if c == 0 else math.copysign(1, c)
            values[i] = values[i] - lr * (sign + (decay if i < 3 else 0) * values[i])
            momenta[i] = b2 * momenta[i] + (1 - b2) * g
        found = [*parameter.detach().flatten().tolist(), *bias.detach().tolist()]
        assert found == pytest.approx(values, rel=1e-13, abs=1e-15)


def test_lion_is_timms() -> None:
    from timm.optim import Lion as Theirs

    ours = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4))]
    theirs = copies(ours)
    optimizers = (
        Lion([{"params": ours}], lr=0.01, weight_decay=0.1),
        Theirs(theirs, lr=0.01, weight_decay=0.1),
    )
    for step in range(20):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            gradients(parameters, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- SGD with a momentum of few bits


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_a_full_momentum_it_is_torchs_sgd(nesterov: bool, decay: float) -> None:
    ours = [nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(4))]
    theirs = copies(ours)
    settings: dict[str, Any] = {
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": nesterov,
        "weight_decay": decay,
    }
    optimizers = (
        LowPrecisionSGD([{"params": ours}], dtype=torch.float32, **settings),
        torch.optim.SGD(theirs, **settings),
    )
    for step in range(10):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            gradients(parameters, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_bf16_momentum_is_vit_jaxs() -> None:
    """`optax.trace(0.9, accumulator_dtype="bfloat16")` as XLA runs it: the step uses
    the new momentum, what is kept of
    it is rounded, and so is the factor. bf16 is the upper half of fp32."""

    def rounded(x: np.ndarray) -> np.ndarray:
        bits = np.atleast_1d(x).astype(np.float32).view(np.uint32).astype(np.uint64)
        return (
            ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000)
            .astype(np.uint32)
            .view(np.float32)
        )

    parameter = nn.Parameter(torch.randn(7, 5))
    optimizer = LowPrecisionSGD([{"params": [parameter]}], lr=0.03, momentum=0.9)
    weight = parameter.detach().numpy().copy()
    momentum = np.zeros((7, 5), np.float32)
    factor = rounded(np.array(0.9))
    assert factor == 0.8984375
    for step in range(30):
        gradients([parameter], step)
        optimizer.step()
        new = factor * momentum + parameter.grad.numpy()  # type: ignore[union-attr]
        weight = weight - np.float32(0.03) * new
        momentum = rounded(new)
        kept = optimizer.state[parameter]["momentum"]
        assert kept.dtype == torch.bfloat16
        assert np.array_equal(kept.float().numpy(), momentum)
        np.testing.assert_allclose(
            parameter.detach().numpy(), weight, rtol=1e-6, atol=1e-6
        )


# --- Muon


def singular_values(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix.double())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16), (1, 5), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalised_matrices_are_nearly_orthogonal(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    matrix = 1e-3 * torch.randn(shape)
    (found,) = orthogonalize([matrix], dtype=dtype)
    assert found.shape == matrix.shape
    assert found.dtype == matrix.dtype
    values = singular_values(found)
    assert 0.66 < values.min() <= values.max() < 1.22
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    # the same singular vectors: U' X V is diagonal
    inner = u.T @ found @ vh.T
    assert (inner - torch.diag(inner.diagonal())).abs().max() < (
        1e-5 if dtype == torch.float32 else 0.03
    )


def test_a_matrix_of_zeros_stays_one() -> None:
    (found,) = orthogonalize([torch.zeros(3, 4)])
    assert torch.equal(found, torch.zeros(3, 4))
    assert orthogonalize([]) == []


def test_stacked_is_one_by_one() -> None:
    shapes = [(8, 16), (16, 8), (8, 16), (6, 6), (16, 8), (4, 16)]
    matrices = [torch.randn(shape) for shape in shapes]
    together = orthogonalize(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(
            found, orthogonalize([matrix])[0], rtol=1e-5, atol=1e-6
        )
    # and the quintic itself, written out once more
    x = matrices[1].double()
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(5):
        gram = x.T @ x
        x = 3.4445 * x + x @ (-4.7750 * gram + 2.0315 * gram @ gram)
    torch.testing.assert_close(together[1].double(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
def test_muon_is_torchs(nesterov: bool, adjust_lr: str) -> None:
    """`torch.optim.Muon` on the same gradients. It computes in bf16, so the two can
    differ by bf16's grain.
    """
    ours = [
        nn.Parameter(torch.randn(shape))
        for shape in [(24, 12), (12, 24), (24, 12), (12, 12)]
    ]
    theirs = copies(ours)
    settings: dict[str, Any] = {
        "lr": 0.02,
        "momentum": 0.9,
        "nesterov": nesterov,
        "weight_decay": 0.1,
        "ns_steps": 5,
    }
    torchs = torch.optim.Muon(theirs, adjust_lr_fn=adjust_lr, **settings)
    mine = Muon(
        [{"params": ours, "matrices": True}],
        adjust_lr=adjust_lr,
        dtype=torch.bfloat16,
        **settings,
    )
    for step in range(5):
        before = [parameter.detach().clone() for parameter in ours]
        for parameters, optimizer in ((ours, mine), (theirs, torchs)):
            gradients(parameters, step)
            optimizer.step()
        for a, b, start in zip(ours, theirs, before, strict=True):
            moved = a.detach() - start
            expected = b.detach() - start
            assert (moved - expected).norm() < 5e-3 * expected.norm()
            with torch.no_grad():
                b.copy_(a)


def test_muons_other_parameters_are_torchs_adamw() -> None:
    model = mixer()
    twin = copy.deepcopy(model)
    choice = OptimChoice(name="muon", lr=0.01, weight_decay=0.1, muon_adamw_lr=0.5)
    optimizer = build_optimizer(model, choice)
    names = [
        n
        for n, p in model.named_parameters()
        if not (p.ndim == 2 and n.startswith("blocks."))
    ]
    others = dict(twin.named_parameters())
    adamw = torch.optim.AdamW(
        [
            {"params": [others[n]], "weight_decay": 0.1 if others[n].ndim > 1 else 0.0}
            for n in names
        ],
        lr=0.005,
        fused=True,
    )
    for step in range(4):
        for network, each in ((model, optimizer), (twin, adamw)):
            gradients(network.parameters(), step)
            each.step()
    found = dict(model.named_parameters())
    assert all(torch.equal(found[n], others[n]) for n in names)


def test_layer_decay_scales_the_steps_of_stacked_matrices() -> None:
    """Matrices of all layers are orthogonalised together, and yet each moves at the
    rate of its own.
    """
    steps = {}
    for decay in (1.0, 0.5):
        model = mixer()
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer = build_optimizer(
            model,
            OptimChoice(name="muon", lr=0.01, weight_decay=0.0, layer_decay=decay),
        )
        gradients(model.parameters(), 0)
        optimizer.step()
        steps[decay] = {
            n: (p.detach() - start[n]).norm().item()
            for n, p in model.named_parameters()
        }
    for name, share in (
        ("blocks.0.mlp_tokens.fc1.weight", 0.25),
        ("blocks.1.mlp_channels.fc2.weight", 0.5),
    ):
        assert steps[0.5][name] == pytest.approx(share * steps[1.0][name], rel=1e-4)


def test_a_matrix_moves_as_far_as_its_scale_says() -> None:
    for adjust_lr, scale in (
        ("original", math.sqrt(3)),
        ("match_rms_adamw", 0.2 * math.sqrt(48)),
    ):
        matrix = nn.Parameter(torch.zeros(48, 16))
        optimizer = Muon(
            [{"params": [matrix], "matrices": True}], lr=0.1, adjust_lr=adjust_lr
        )
        gradients([matrix], 0)
        optimizer.step()
        values = singular_values(matrix.detach()) / (0.1 * scale)
        assert 0.66 < values.min() <= values.max() < 1.22


def test_muon_learns_faster_than_sgd() -> None:
    """Cross-entropy on 256 fixed images of noise, 30 steps, each optimiser at the best
    of four rates.
    """
    images = torch.randn(256, 1, 8, 8)
    labels = torch.arange(256) % 4

    def final_loss(**fields: Any) -> float:
        model = mixer()
        optimizer = build_optimizer(model, OptimChoice(weight_decay=0.0, **fields))
        for _ in range(30):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        return F.cross_entropy(model(images), labels).item()

    sgd = min(final_loss(name="sgd", lr=lr) for lr in (0.03, 0.1, 0.3, 1.0))
    muon = min(final_loss(name="muon", lr=lr) for lr in (0.003, 0.01, 0.03, 0.1))
    assert muon < 0.7 * sgd


# --- all of them


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_saved_state_goes_on_bit_for_bit(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    def begin() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = mixer()
        return model, build_optimizer(model, OptimChoice(**settings))

    def advance(
        model: nn.Module, optimizer: torch.optim.Optimizer, steps: range
    ) -> None:
        for step in steps:
            gradients(model.parameters(), step)
            set_lr(optimizer, 0.01 / (1 + step))
            optimizer.step()

    whole = begin()
    advance(*whole, range(8))

    model, optimizer = begin()
    advance(model, optimizer, range(5))
    saver = StateSaver(tmp_path)
    header = {"config": {}, "fingerprint": "", "best": None}
    saver.save(header, step=5, modules={"model": model}, optimizer=optimizer)
    saver.wait()
    state, _ = newest_state(tmp_path)
    assert state is not None

    resumed = begin()
    restore(state, {"model": resumed[0]}, resumed[1])
    before = optimizer.state_dict()["state"]
    after = resumed[1].state_dict()["state"]
    for index, moments in before.items():
        assert moments.keys() == after[index].keys()
        assert all(
            value.dtype == after[index][name].dtype for name, value in moments.items()
        )
    advance(*resumed, range(5, 8))
    for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_muons_count_of_steps_is_restored_to_the_device_of_the_weights() -> None:
    """Where fused AdamW wants it; torch leaves it on the CPU for optimisers that do not
    say so.
    """
    model = mixer().to("meta")
    optimizer = build_optimizer(model, OptimChoice(name="muon"))
    index = sum(len(group["params"]) for group in optimizer.param_groups) - 1
    state = {
        index: {
            "step": torch.tensor(3.0),
            "exp_avg": torch.zeros(4),
            "exp_avg_sq": torch.zeros(4),
        }
    }
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    (restored,) = optimizer.state.values()
    assert {value.device.type for value in restored.values()} == {"meta"}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_what_has_no_gradient_stays(settings: dict[str, Any]) -> None:
    model = mixer()
    optimizer = build_optimizer(model, OptimChoice(**settings))
    optimizer.step()  # nobody has one
    start = {
        name: parameter.detach().clone() for name, parameter in model.named_parameters()
    }
    for parameter in model.head.parameters():  # type: ignore[union-attr]
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, start[name])
    }
    assert moved == {"head.weight", "head.bias"}
    copy.deepcopy(optimizer).step()
