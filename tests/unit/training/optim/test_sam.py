"""Sharpness-aware gradients: by hand on a quadratic, against the original's steps, and
what must not change.
"""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mlp_mixer import UserError
from mlp_mixer.models import create_model
from mlp_mixer.training.config import OptimChoice, ScheduleChoice
from mlp_mixer.training.optim import sam
from mlp_mixer.training.optim.sam import rho_at, sharpness_gradients
from mlp_mixer.training.optim.schedule import lr_factor

Example = tuple[Tensor, Tensor]


def mixer(**fields: Any) -> nn.Module:
    """A tiny one, whose head is not zero, so that every gradient is something."""
    torch.manual_seed(5)
    model = create_model(
        "mixer_pico2", num_classes=4, in_channels=1, num_blocks=2, hidden_dim=16, tokens_mlp_dim=8,
        channels_mlp_dim=32, **fields,
    )  # fmt: skip
    nn.init.normal_(model.head.weight, std=0.2)  # type: ignore[arg-type]
    return model


def examples(count: int, seed: int = 0) -> Example:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 4


def micro_batches(batch: Example, size: int) -> list[Example]:
    return list(zip(batch[0].split(size), batch[1].split(size), strict=True))


def loss_with(model: nn.Module) -> Callable[[Example], Tensor]:
    return lambda batch: F.cross_entropy(model(batch[0]), batch[1])


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def gradient(model: nn.Module) -> Tensor:
    return flat(parameter.grad for parameter in model.parameters())


class Quadratic(nn.Module):
    """x' A x / 2 + b' x, whose gradient is A x + b; the parameter comes in two pieces,
    for the norm is over all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.second = nn.Parameter(torch.tensor([[0.5]]))
        self.matrix = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
        self.double()
        self.matrix = self.matrix.double()

    def forward(self, shift: Tensor) -> Tensor:
        x = torch.cat([self.first, self.second.flatten()])
        return x @ self.matrix @ x / 2 + shift @ x


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_quadratic_by_hand(alpha: float) -> None:
    model = Quadratic()
    rho = 0.3
    shifts = [
        torch.tensor([1.0, 2.0, -1.0]).double(),
        torch.tensor([0.0, -0.5, 4.0]).double(),
    ]
    loss = sharpness_gradients(model, model, shifts, rho=rho, alpha=alpha)
    x = torch.tensor([1.0, -2.0, 0.5]).double()
    expected = torch.zeros(3).double()
    for shift in shifts:
        clean = model.matrix @ x + shift
        robust = model.matrix @ (x + rho * clean / clean.norm()) + shift
        orthogonal = clean - (clean @ robust) / (robust @ robust) * robust
        assert abs(orthogonal @ robust) < 1e-12
        expected += (robust - alpha * orthogonal) / 2
    torch.testing.assert_close(gradient(model), expected, rtol=1e-12, atol=1e-12)
    assert loss.item() == pytest.approx(
        sum(model(shift).item() for shift in shifts) / 2, rel=1e-12
    )


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
    _, g_robust = value_and_gradient(weights + rho * g_clean / (g_clean.norm() + 1e-12))
    g_robust_normalized = g_robust / g_robust.norm()
    g_clean_residual = g_clean - (g_robust_normalized @ g_clean) * g_robust_normalized
    return l_clean.item(), g_robust - g_clean_residual * alpha


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("size", [12, 4])
def test_a_mixer_as_the_original(alpha: float, size: int) -> None:
    model = mixer().double()
    batch = examples(12)[0].double(), examples(12)[1]
    loss = sharpness_gradients(
        model, loss_with(model), micro_batches(batch, size), rho=0.4, alpha=alpha
    )
    parts = [original(model, part, 0.4, alpha) for part in micro_batches(batch, size)]
    assert loss.item() == pytest.approx(
        sum(part[0] for part in parts) / len(parts), rel=1e-12
    )
    expected = torch.stack([part[1] for part in parts]).mean(0)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-9, atol=1e-12)
    plain = copy.deepcopy(model)
    plain.zero_grad()
    loss_with(plain)(batch).backward()
    assert (
        gradient(plain) - expected
    ).norm() > 0.05 * expected.norm()  # the ascent matters


@pytest.mark.parametrize("fields", [{}, {"dropout": 0.3}])
def test_without_an_ascent_it_is_backward(fields: dict[str, Any]) -> None:
    """rho = 0, alpha = 0: the same bits, and the same random numbers before and after."""
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
    assert torch.equal(found, gradient(model))
    assert torch.equal(sharp_loss, loss.detach())
    assert not sharp_loss.requires_grad
    assert torch.equal(drawn_next, torch.rand(3))


def test_both_gradients_see_the_same_random_numbers_and_micro_batches_others() -> None:
    model = mixer()
    draws = []

    def loss_of(batch: Example) -> Tensor:
        draws.append(torch.rand(1).item())
        return loss_with(model)(batch)

    sharpness_gradients(
        model, loss_of, micro_batches(examples(12), 4), rho=0.1, alpha=0.2
    )
    assert draws[0::2] == draws[1::2]
    assert len(set(draws)) == 3


def test_gradients_are_added_as_backward_adds_them() -> None:
    model = mixer()
    batch = examples(8)
    sharpness_gradients(model, loss_with(model), [batch], rho=0.1)
    once = gradient(model)
    sharpness_gradients(model, loss_with(model), [batch], rho=0.1)
    assert torch.equal(gradient(model), once + once)


def test_frozen_parameters_stay_out_of_it() -> None:
    model = mixer()
    batch = examples(8)
    for parameter in model.blocks.parameters():  # type: ignore[union-attr]
        parameter.requires_grad_(False)
    seen: list[Tensor] = []

    def loss_of(batch: Example) -> Tensor:
        seen.append(
            torch.cat(
                [
                    model.head.weight.detach().flatten(),
                    model.stem.proj.weight.detach().flatten(),
                ]
            )
        )
        assert all(
            torch.equal(a, b)
            for a, b in zip(model.blocks.parameters(), frozen, strict=True)
        )  # type: ignore[union-attr]
        return loss_with(model)(batch)

    frozen = [parameter.detach().clone() for parameter in model.blocks.parameters()]  # type: ignore[union-attr]
    sharpness_gradients(model, loss_of, [batch], rho=0.1)
    assert all(parameter.grad is None for parameter in model.blocks.parameters())  # type: ignore[union-attr]
    assert not torch.equal(seen[0], seen[1])


def test_the_weights_end_with_the_bits_they_had() -> None:
    """Also where w + e - e is not w, and where the second pass fails."""
    model = mixer()
    with torch.no_grad():
        model.head.weight.mul_(1e-6)
    before = flat(model.parameters())
    sharpness_gradients(
        model, loss_with(model), micro_batches(examples(12), 3), rho=3.0, alpha=0.5
    )
    assert torch.equal(before, flat(model.parameters()))

    calls: list[float] = []

    def loss_of(batch: Example) -> Tensor:
        calls.append((flat(model.parameters()) - before).norm().item())
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return loss_with(model)(batch)

    with pytest.raises(RuntimeError, match="out of memory"):
        sharpness_gradients(model, loss_of, micro_batches(examples(12), 3), rho=3.0)
    assert torch.equal(before, flat(model.parameters()))
    assert calls == pytest.approx(
        [0, 3, 0, 3], rel=1e-5
    )  # each ascent starts at the weights, and is rho long


def test_a_gradient_of_zero_goes_nowhere() -> None:
    model = Quadratic()
    shift = -model.matrix @ torch.tensor([1.0, -2.0, 0.5]).double()
    sharpness_gradients(model, model, [shift], rho=0.3, alpha=0.6)
    assert torch.equal(gradient(model), torch.zeros(3).double())


@pytest.mark.parametrize("outside", [True, False])
def test_under_autocast_the_second_pass_sees_the_moved_weights(outside: bool) -> None:
    """Autocast keeps what it has cast; a region around both passes would otherwise
    serve the weights of the first.
    """
    model = mixer()
    batch = examples(12)
    losses: list[float] = []

    def loss_of(batch: Example) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=True):
            logits = model(batch[0])
        losses.append(F.cross_entropy(logits.float(), batch[1]).item())
        return F.cross_entropy(logits.float(), batch[1])

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=outside):
        sharpness_gradients(model, loss_of, [batch], rho=1.0)
    found = gradient(model)
    assert losses[1] > losses[0] + 0.1
    _, expected = original(model, batch, 1.0, 0.0)
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_dropout_and_recomputation(checkpointing: bool) -> None:
    model = mixer(dropout=0.2)
    batch = examples(12)
    torch.manual_seed(1)
    sharpness_gradients(model, loss_with(model), [batch], rho=0.1, alpha=0.3)
    expected = gradient(model)
    model.zero_grad()
    model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
    torch.manual_seed(1)
    sharpness_gradients(model, loss_with(model), [batch], rho=0.1, alpha=0.3)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-5, atol=1e-7)


def test_rho_follows_the_learning_rate() -> None:
    """big_vision's configs/proj/gsam: rho_max 0.6, rho_min 0.1, lr_max 3e-3, lr_min
    0.01 of it, linear decay.
    """
    choice = OptimChoice(lr=3e-3, rho=0.6, rho_min=0.1, alpha=0.6)
    schedule = ScheduleChoice(decay="linear", final=0.01, warmup_from="zero")
    lr_max = 3e-3
    lr_min = 0.01 * 3e-3
    for step in range(200):
        factor = lr_factor(step, 200, 20, schedule)
        expected = 0.1 + (0.6 - 0.1) * (3e-3 * factor - lr_min) / (lr_max - lr_min)
        assert rho_at(factor, choice, schedule) == pytest.approx(expected, rel=1e-12)
    assert rho_at(1.0, choice, schedule) == pytest.approx(0.6)
    assert rho_at(0.01, choice, schedule) == pytest.approx(0.1)
    assert {rho_at(f, OptimChoice(rho=0.2), schedule) for f in (0.0, 0.5, 1.0)} == {
        0.2
    }  # SAM
    assert rho_at(1.0, choice, ScheduleChoice(decay="constant", final=1.0)) == 0.6
    assert (
        rho_at(0.0, OptimChoice(rho=0.6, rho_min=0.0), schedule) == 0.0
    )  # not below zero


def test_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharded(nn.Parameter):
        """Stands for a DTensor, which needs several processes."""

    model = nn.Linear(2, 1, bias=False)
    model.weight = Sharded(model.weight.data)
    monkeypatch.setattr(sam, "DTensor", Sharded)
    with pytest.raises(UserError, match="needs whole weights in each process"):
        sharpness_gradients(
            model, lambda x: model(x).sum(), [torch.ones(1, 2)], rho=0.1
        )


def _one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    mine = micro_batches(micro_batches(examples(12), 6)[rank], 3)
    for name, wrap in (
        ("bare", nn.Sequential),
        ("wrapped", nn.parallel.DistributedDataParallel),
    ):
        network = wrap(mixer())

        def loss_of(batch: Example, network: nn.Module = network) -> Tensor:
            assert not (
                isinstance(network, nn.parallel.DistributedDataParallel)
                and network.require_backward_grad_sync
            )
            return loss_with(network)(batch)

        for _ in range(
            2
        ):  # the second round would notice a reduction that the first left open
            network.zero_grad()
            sharpness_gradients(network, loss_of, mine, rho=0.4, alpha=0.6)
        torch.save(gradient(network), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_two_micro_batches_are_one_with_four(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_one_of_two, args=(rank, tmp_path), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    model = mixer()
    sharpness_gradients(
        model, loss_with(model), micro_batches(examples(12), 3), rho=0.4, alpha=0.6
    )
    for name in ("bare", "wrapped"):
        first, second = (
            torch.load(tmp_path / f"{name}-{rank}.pt") for rank in range(2)
        )
        assert torch.equal(first, second)
        torch.testing.assert_close(first, gradient(model), rtol=1e-5, atol=1e-7)
