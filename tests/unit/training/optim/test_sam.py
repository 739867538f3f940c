"""Sharpness-aware gradients: by hand, against the original, and what must not change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mlp_mixer import UserError
from mlp_mixer.models import create_model
from mlp_mixer.training.config import OptimChoice, ScheduleChoice
from mlp_mixer.training.optim import sam
from mlp_mixer.training.optim.sam import rho_at, sharpness_gradients
from mlp_mixer.training.optim.schedule import lr_factor

from .... import commands

Example = tuple[Tensor, Tensor]


def mixer(**fields: Any) -> nn.Module:
    """A tiny one, whose head is not zero, so that every gradient is something."""
    torch.manual_seed(5)
    model = create_model(
        "mixer_pico2",
        num_classes=4,
        in_channels=1,
        num_blocks=2,
        hidden_dim=16,
        tokens_mlp_dim=8,
        channels_mlp_dim=32,
        **fields,
    )
    nn.init.normal_(model.get_parameter("head.weight"), std=0.2)
    return model


def examples(count: int) -> Example:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return images, torch.arange(count) % 4


def micro_batches(batch: Example, size: int) -> list[Example]:
    images, labels = batch
    return list(zip(images.split(size), labels.split(size), strict=True))


def loss_with(model: nn.Module) -> Callable[[Example], Tensor]:
    def loss(batch: Example) -> Tensor:
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    return loss


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    parts = [tensor.detach().flatten() for tensor in tensors if tensor is not None]
    return torch.cat(parts)


def gradient(model: nn.Module) -> Tensor:
    return flat(parameter.grad for parameter in model.parameters())


# Against a quadratic and the original


class Quadratic(nn.Module):
    """x' A x / 2 + b' x, whose gradient is A x + b.

    The parameter comes in two pieces, because the norm is over all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.second = nn.Parameter(torch.tensor([[0.5]]))
        self.double()
        rows = [[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]]
        self.matrix = torch.tensor(rows, dtype=torch.float64)

    @property
    def x(self) -> Tensor:
        return torch.cat([self.first, self.second.flatten()])

    def forward(self, shift: Tensor) -> Tensor:
        return self.x @ self.matrix @ self.x / 2 + shift @ self.x


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_quadratic_by_hand(alpha: float) -> None:
    model = Quadratic()
    rho = 0.3
    shifts = [
        torch.tensor([1.0, 2.0, -1.0]).double(),
        torch.tensor([0.0, -0.5, 4.0]).double(),
    ]
    loss = sharpness_gradients(model, model, shifts, rho=rho, alpha=alpha)
    x = model.x.detach()
    expected = torch.zeros(3).double()
    for shift in shifts:
        clean = model.matrix @ x + shift
        robust = model.matrix @ (x + rho * clean / clean.norm()) + shift
        along = (clean @ robust) / (robust @ robust)
        orthogonal = clean - along * robust
        assert abs(orthogonal @ robust) < 1e-12
        expected += (robust - alpha * orthogonal) / 2
    torch.testing.assert_close(gradient(model), expected, rtol=1e-12, atol=1e-12)
    mean = sum(model(shift).item() for shift in shifts) / 2
    assert loss.item() == pytest.approx(mean, rel=1e-12)


def original(
    model: nn.Module, batch: Example, rho: float, alpha: float
) -> tuple[float, Tensor]:
    """`gsam_gradient` of big_vision, step by step, on a copy of the model."""

    def value_and_gradient(weights: Tensor) -> tuple[Tensor, Tensor]:
        network = copy.deepcopy(model)
        nn.utils.vector_to_parameters(weights, network.parameters())
        loss = loss_with(network)(batch)
        loss.backward()
        return loss.detach(), gradient(network)

    weights = flat(model.parameters())
    l_clean, g_clean = value_and_gradient(weights)
    ascent = rho * g_clean / (g_clean.norm() + 1e-12)
    _, g_robust = value_and_gradient(weights + ascent)
    g_robust_normalized = g_robust / g_robust.norm()
    along = g_robust_normalized @ g_clean
    g_clean_residual = g_clean - along * g_robust_normalized
    return l_clean.item(), g_robust - g_clean_residual * alpha


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("size", [12, 4])
def test_a_mixer_as_the_original(alpha: float, size: int) -> None:
    model = mixer().double()
    images, labels = examples(12)
    batch = (images.double(), labels)
    parts = micro_batches(batch, size)
    loss = sharpness_gradients(model, loss_with(model), parts, rho=0.4, alpha=alpha)
    theirs = [original(model, part, 0.4, alpha) for part in parts]
    mean = sum(part_loss for part_loss, _ in theirs) / len(theirs)
    assert loss.item() == pytest.approx(mean, rel=1e-12)
    expected = torch.stack([part_gradient for _, part_gradient in theirs]).mean(0)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-9, atol=1e-12)

    plain = copy.deepcopy(model)
    plain.zero_grad()
    loss_with(plain)(batch).backward()
    difference = (gradient(plain) - expected).norm()
    assert difference > 0.05 * expected.norm(), "the ascent matters"


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.3}])
def test_without_an_ascent_it_is_backward(fields: dict[str, Any]) -> None:
    """rho = 0, alpha = 0: also the same random numbers before and after."""
    model = mixer(**fields)
    batch = examples(16)
    torch.manual_seed(11)
    sharp_loss = sharpness_gradients(model, loss_with(model), [batch], rho=0.0)
    found = gradient(model)
    drawn_next = torch.rand(3)
    model.zero_grad()
    torch.manual_seed(11)
    loss = loss_with(model)(batch)
    loss.backward()
    torch.testing.assert_close(found, gradient(model), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(sharp_loss, loss.detach(), rtol=1e-6, atol=0)
    assert not sharp_loss.requires_grad
    assert torch.equal(drawn_next, torch.rand(3))


def test_both_gradients_see_the_same_random_numbers_and_micro_batches_others() -> None:
    model = mixer()
    draws = []

    def loss_of(batch: Example) -> Tensor:
        draws.append(torch.rand(1).item())
        return loss_with(model)(batch)

    parts = micro_batches(examples(12), 4)
    sharpness_gradients(model, loss_of, parts, rho=0.1, alpha=0.2)
    assert draws[0::2] == draws[1::2]
    assert len(set(draws)) == 3


# What must not change


def test_gradients_are_added_as_backward_adds_them() -> None:
    model = mixer()
    batch = examples(8)
    sharpness_gradients(model, loss_with(model), [batch], rho=0.1)
    once = gradient(model)
    sharpness_gradients(model, loss_with(model), [batch], rho=0.1)
    assert torch.equal(gradient(model), once + once)


def test_frozen_parameters_stay_out_of_it() -> None:
    model = mixer()
    blocks = model.get_submodule("blocks").requires_grad_(False)
    frozen = flat(blocks.parameters())
    heads: list[Tensor] = []

    def loss_of(batch: Example) -> Tensor:
        heads.append(model.get_parameter("head.weight").detach().clone())
        assert torch.equal(flat(blocks.parameters()), frozen)
        return loss_with(model)(batch)

    sharpness_gradients(model, loss_of, [examples(8)], rho=0.1)
    assert all(parameter.grad is None for parameter in blocks.parameters())
    assert not torch.equal(heads[0], heads[1])


def test_the_weights_end_with_the_bits_they_had() -> None:
    """Also where w + e - e is not w."""
    model = mixer()
    model.get_parameter("head.weight").data.mul_(1e-6)
    before = flat(model.parameters())
    parts = micro_batches(examples(12), 3)
    sharpness_gradients(model, loss_with(model), parts, rho=3.0, alpha=0.5)
    assert torch.equal(before, flat(model.parameters()))


def test_the_weights_end_with_the_bits_they_had_after_an_error() -> None:
    model = mixer()
    before = flat(model.parameters())
    lengths: list[float] = []

    def loss_of(batch: Example) -> Tensor:
        ascent = flat(model.parameters()) - before
        lengths.append(ascent.norm().item())
        if len(lengths) == 4:
            raise RuntimeError("out of memory")
        return loss_with(model)(batch)

    with pytest.raises(RuntimeError, match="out of memory"):
        sharpness_gradients(model, loss_of, micro_batches(examples(12), 3), rho=3.0)
    assert torch.equal(before, flat(model.parameters()))
    # Each ascent starts at the weights, and is rho long.
    assert lengths == pytest.approx([0, 3, 0, 3], rel=1e-5)


def test_a_gradient_of_zero_goes_nowhere() -> None:
    model = Quadratic()
    shift = -model.matrix @ model.x.detach()
    sharpness_gradients(model, model, [shift], rho=0.3, alpha=0.6)
    assert torch.equal(gradient(model), torch.zeros(3).double())


@pytest.mark.parametrize("outside", [True, False])
def test_under_autocast_the_second_pass_sees_the_moved_weights(outside: bool) -> None:
    """Autocast keeps what it has cast: around both passes, the weights of the first."""
    model = mixer()
    batch = examples(12)
    images, labels = batch
    losses: list[float] = []

    def loss_of(batch: Example) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=True):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        losses.append(loss.item())
        return loss

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside):
        sharpness_gradients(model, loss_of, [batch], rho=1.0)
    found = gradient(model)
    assert losses[1] > losses[0] + 0.1
    _, expected = original(model, batch, 1.0, 0.0)
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_dropout_and_recomputation(checkpointing: bool) -> None:
    model: Any = mixer(dropout=0.2)
    batch = examples(12)
    found = []
    for enable in (False, checkpointing):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        sharpness_gradients(model, loss_with(model), [batch], rho=0.1, alpha=0.3)
        found.append(gradient(model))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


# The length of the ascent step


def test_rho_follows_the_learning_rate() -> None:
    """big_vision's configs/proj/gsam.

    rho_max 0.6, rho_min 0.1, lr_max 3e-3, lr_min 0.01 of it, linear decay.
    """
    lr_max = 3e-3
    lr_min = 0.01 * lr_max
    choice = OptimChoice(lr=lr_max, rho=0.6, rho_min=0.1, alpha=0.6)
    schedule = ScheduleChoice(decay="linear", final=0.01, warmup_from="zero")
    for step in range(200):
        factor = lr_factor(step, 200, 20, schedule)
        share = (lr_max * factor - lr_min) / (lr_max - lr_min)
        expected = 0.1 + (0.6 - 0.1) * share
        assert rho_at(factor, choice, schedule) == pytest.approx(expected, rel=1e-12)
    assert rho_at(1.0, choice, schedule) == pytest.approx(0.6)
    assert rho_at(0.01, choice, schedule) == pytest.approx(0.1)


def test_rho_at_the_edges() -> None:
    falling = ScheduleChoice(decay="linear", final=0.01)
    constant = ScheduleChoice(decay="constant", final=1.0)
    sam_choice = OptimChoice(rho=0.2)
    for factor in (0.0, 0.5, 1.0):
        assert rho_at(factor, sam_choice, falling) == 0.2
    gsam = OptimChoice(rho=0.6, rho_min=0.0)
    assert rho_at(1.0, gsam, constant) == 0.6
    assert rho_at(0.0, gsam, falling) == 0.0, "never below zero"


# Several processes


def test_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharded(nn.Parameter):
        """Stands for a DTensor, which needs several processes."""

    model = nn.Linear(2, 1, bias=False)
    model.weight = Sharded(model.weight.data)
    monkeypatch.setattr(sam, "DTensor", Sharded)
    batches = [torch.ones(1, 2)]
    with pytest.raises(UserError, match="needs whole weights in each process"):
        sharpness_gradients(model, lambda x: model(x).sum(), batches, rho=0.1)


def _one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    own_half = micro_batches(examples(12), 6)[rank]
    mine = micro_batches(own_half, 3)
    for name, wrap in (("bare", nn.Sequential), ("wrapped", DistributedDataParallel)):
        network = wrap(mixer())

        def loss_of(batch: Example, network: nn.Module = network) -> Tensor:
            if isinstance(network, DistributedDataParallel):
                assert not network.require_backward_grad_sync
            return loss_with(network)(batch)

        # The second round would notice a reduction that the first left open.
        for _ in range(2):
            network.zero_grad()
            sharpness_gradients(network, loss_of, mine, rho=0.4, alpha=0.6)
        torch.save(gradient(network), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_two_micro_batches_are_one_with_four(tmp_path: Path) -> None:
    context = commands.CONTEXT
    processes = []
    for rank in range(2):
        arguments = (rank, tmp_path)
        process = context.Process(target=_one_of_two, args=arguments, daemon=True)
        process.start()
        processes.append(process)
    for process in processes:
        process.join(1200)
    assert [process.exitcode for process in processes] == [0, 0]

    model = mixer()
    parts = micro_batches(examples(12), 3)
    sharpness_gradients(model, loss_with(model), parts, rho=0.4, alpha=0.6)
    for name in ("bare", "wrapped"):
        first = torch.load(tmp_path / f"{name}-0.pt")
        second = torch.load(tmp_path / f"{name}-1.pt")
        # An all_reduce gives every process the same sum.
        assert torch.equal(first, second)
        torch.testing.assert_close(first, gradient(model), rtol=1e-5, atol=1e-7)
