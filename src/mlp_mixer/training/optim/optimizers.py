"""Optimisers that torch lacks, or that suit a Mixer better: Lion, Muon on stacked
matrices, SGD with a bf16 momentum.

What they remember of a parameter is plain tensors in `state`, so that a run can be
saved and restored bit for bit. Of torch's `_foreach` functions only those are used that
torch 2.11 can apply to sharded weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

Group = dict[str, Any]
_NS_COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # steep at zero: Keller Jordan's, and torch.optim.Muon's
_EPS = 1e-7
_SCALES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


class _Optimizer(Optimizer, ABC):
    """What those here have in common: a step changes every parameter that has a
    gradient, and needs no closure.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, as in torch."""
        assert closure is None
        self.update()

    @abstractmethod
    def update(self) -> None: ...

    def remembered(
        self, parameters: list[Tensor], name: str, dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """What is kept of each parameter under this name: zeros at first."""
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, dtype=dtype)
        return [self.state[parameter][name] for parameter in parameters]


class Lion(_Optimizer):
    """Lion (Chen et al., 2023, arXiv 2302.06675, Algorithm 2): the sign of an
    interpolated momentum.

    For gradient g and momentum m: p -= lr * (sign(b1 m + (1 - b1) g) + weight_decay p),
        then m = b2 m + (1 - b2) g.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        )

    def update(self) -> None:
        for group, parameters, gradients in _with_gradients(self.param_groups):
            momenta = self.remembered(parameters, "momentum")
            signs = _mixed(momenta, gradients, 1 - group["betas"][0])
            for sign in signs:
                sign.sign_()
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, signs, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - group["betas"][1])


class LowPrecisionSGD(_Optimizer):
    """`torch.optim.SGD` with a momentum that is kept in `dtype` between steps, as
    vit_jax fine-tunes.

    As in `optax.trace(accumulator_dtype=...)`, the step itself uses the new momentum
    before it is rounded, and the factor of the old one has as few bits as what it
    multiplies: in bf16, a momentum of 0.9 is 0.8984.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        *,
        lr: float,
        momentum: float,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "dtype": dtype,
        }
        super().__init__(groups, defaults)

    def update(self) -> None:
        for group, parameters, gradients in _with_gradients(self.param_groups):
            kept = self.remembered(parameters, "momentum", group["dtype"])
            if group["weight_decay"]:
                gradients = list(
                    torch._foreach_add(
                        gradients, parameters, alpha=group["weight_decay"]
                    )
                )
            momenta = [
                momentum.to(gradient.dtype)
                for momentum, gradient in zip(kept, gradients, strict=True)
            ]
            torch._foreach_mul_(
                momenta, torch.tensor(group["momentum"], dtype=group["dtype"]).item()
            )
            torch._foreach_add_(momenta, gradients)
            steps = (
                torch._foreach_add(gradients, momenta, alpha=group["momentum"])
                if group["nesterov"]
                else momenta
            )
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])
            for old, new in zip(kept, momenta, strict=True):
                old.copy_(new)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, which gives the momentum the dtype of the weights; here it keeps
        its own.
        """
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for remembered in (
                self.state[parameter]
                for parameter in group["params"]
                if parameter in self.state
            ):
                remembered["momentum"] = remembered["momentum"].to(group["dtype"])


class Muon(_Optimizer):
    """Muon (kellerjordan.github.io/posts/muon) for the groups with `matrices`, AdamW
    for the others.

    The same update as `torch.optim.Muon`, which orthogonalises one matrix at a time.
    All blocks of a Mixer have the same shapes, so here they are stacked: two batched
    iterations, whatever the depth.

    groups: `matrices` (bool: all parameters have two axes, and Muon takes them) beside
        what torch's optimisers take.
    adjust_lr: "original" multiplies the orthogonal update by sqrt(max(1, rows /
        columns)), "match_rms_adamw" by
    0.2 sqrt(max(rows, columns)), after which the learning rates and weight decays of
    AdamW suit it (arXiv 2502.16982).
    dtype: of the orthogonalisation; none: bf16, and fp32 on a CPU.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        *,
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr: str = "original",
        dtype: torch.dtype | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        assert adjust_lr in _SCALES, adjust_lr
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "betas": betas,
            "weight_decay": weight_decay,
        }
        defaults |= {"ns_steps": ns_steps, "adjust_lr": adjust_lr, "dtype": dtype}
        # `fused` tells torch's load_state_dict where the number of steps belongs: on
        # the device, as fused AdamW wants.
        super().__init__(groups, defaults | {"matrices": False, "fused": True})
        assert all(
            p.ndim == 2
            for group in self.param_groups
            if group["matrices"]
            for p in group["params"]
        )

    def update(self) -> None:
        self._step_matrices([group for group in self.param_groups if group["matrices"]])
        self._step_others(
            [group for group in self.param_groups if not group["matrices"]]
        )

    def _step_matrices(self, groups: list[Group]) -> None:
        """Momentum and learning rate by group; the orthogonalisation over all groups at
        once.
        """
        directions: list[Tensor] = []
        for group, parameters, gradients in _with_gradients(groups):
            momenta = self.remembered(parameters, "momentum")
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            directions += (
                _mixed(gradients, momenta, group["momentum"])
                if group["nesterov"]
                else momenta
            )
        updates = iter(
            orthogonalize(directions, self.defaults["ns_steps"], self.defaults["dtype"])
        )
        for group, parameters, _ in _with_gradients(groups):
            scales = [
                _SCALES[group["adjust_lr"]](*parameter.shape)
                for parameter in parameters
            ]
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            steps = torch._foreach_mul(list(islice(updates, len(parameters))), scales)
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _step_others(self, groups: list[Group]) -> None:
        """AdamW, by torch."""
        for group, parameters, gradients in _with_gradients(groups):
            for parameter in parameters:
                if "step" not in self.state[parameter]:
                    self.state[parameter]["step"] = torch.zeros(
                        (), dtype=torch.float32, device=parameter.device
                    )
            adamw(
                parameters,
                gradients,
                self.remembered(parameters, "exp_avg"),
                self.remembered(parameters, "exp_avg_sq"),
                [],
                [self.state[parameter]["step"] for parameter in parameters],
                fused=True,
                amsgrad=False,
                maximize=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=1e-8,
            )


def orthogonalize(
    matrices: list[Tensor], steps: int = 5, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """For each matrix U S V^T about U V^T, in its own dtype, by `steps` of the quintic
    iteration.

    Singular values above a hundredth of the Frobenius norm end in [0.68, 1.14] or so
    after five steps.

    Matrices of equal shape, lying or standing, are iterated as one stack. dtype: to
    compute in; none: bf16, and fp32 on a CPU.
    """
    stacks: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        stacks.setdefault(tuple(sorted(matrix.shape)), []).append(index)
    out = list(matrices)
    for indices in stacks.values():
        lying = [
            matrices[i].mT if _stands(matrices[i]) else matrices[i] for i in indices
        ]
        working = dtype or (
            torch.float32 if lying[0].device.type == "cpu" else torch.bfloat16
        )
        result = _newton_schulz(torch.stack(lying).to(working), steps).to(
            lying[0].dtype
        )
        for i, matrix in zip(indices, result, strict=True):
            out[i] = matrix.mT if _stands(matrices[i]) else matrix
    return out


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """Singular values of stacked matrices (rows <= columns) move towards one: x <- (a +
    b xx' + c (xx')^2) x.
    """
    a, b, c = _NS_COEFFICIENTS
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a
        )
    return x


def _stands(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _mixed(
    first: list[Tensor], second: list[Tensor], share: float
) -> tuple[Tensor, ...]:
    """(1 - share) first + share second, in new tensors."""
    mixed = torch._foreach_mul(first, 1)
    torch._foreach_lerp_(mixed, second, share)
    return mixed


def _with_gradients(
    groups: list[Group],
) -> Iterator[tuple[Group, list[Tensor], list[Tensor]]]:
    """Each group with those of its parameters that have a gradient, and these; groups
    without any are left out.
    """
    for group in groups:
        parameters = [
            parameter for parameter in group["params"] if parameter.grad is not None
        ]
        if parameters:
            yield group, parameters, [parameter.grad for parameter in parameters]
