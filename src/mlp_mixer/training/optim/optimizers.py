"""Optimisers that torch lacks, or that suit a Mixer better.

Lion, Muon on stacked matrices, and SGD with a bf16 momentum. What they remember of a
parameter is plain tensors in `state`, so that a run can be saved and restored bit for
bit. Of torch's `_foreach` functions only those are used that torch 2.11 can apply to
sharded weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

Group = dict[str, Any]

# Keller Jordan's, and torch.optim.Muon's: steep at zero, so that small singular values
# grow fast; the iteration then wanders around one instead of converging.
_NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPS = 1e-7


class _Optimizer(Optimizer, ABC):
    """An optimiser whose step changes every parameter that has a gradient."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step, as in torch, but without a closure."""
        assert closure is None
        self.update()

    @abstractmethod
    def update(self) -> None: ...

    def remembered(
        self, parameters: list[Tensor], name: str, dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """Return what is kept of each parameter under a name: zeros at first."""
        kept = []
        for parameter in parameters:
            state = self.state[parameter]
            if name not in state:
                state[name] = torch.zeros_like(parameter, dtype=dtype)
            kept.append(state[name])
        return kept


class Lion(_Optimizer):
    """Lion: the sign of an interpolated momentum.

    Chen et al. 2023 (arXiv 2302.06675, Algorithm 2). For gradient g and momentum m:
    p -= lr * (sign(b1 m + (1 - b1) g) + weight_decay p), then m = b2 m + (1 - b2) g.
    """

    def __init__(
        self,
        groups: Iterable[Group],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        """Prepare the groups.

        Args:
            groups: As torch's optimisers take them.
            lr: The learning rate.
            betas: b1 and b2.
            weight_decay: The share of a parameter, times lr, that each step takes.
        """
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(groups, defaults)

    def update(self) -> None:
        """Change all parameters that have a gradient."""
        for group, parameters, gradients in _with_gradients(self.param_groups):
            momenta = self.remembered(parameters, "momentum")
            signs = _mixed(momenta, gradients, 1 - group["betas"][0])
            for sign in signs:
                sign.sign_()
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, signs, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - group["betas"][1])


class LowPrecisionSGD(_Optimizer):
    """`torch.optim.SGD` with a momentum of fewer bits, as vit_jax fine-tunes.

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
        """Prepare the groups.

        Args:
            groups: As torch's optimisers take them.
            lr: The learning rate.
            momentum: The factor of the old momentum.
            nesterov: Look one step ahead.
            weight_decay: Times the parameter, is added to its gradient.
            dtype: Of the momentum between steps.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "dtype": dtype,
        }
        super().__init__(groups, defaults)

    def update(self) -> None:
        """Change all parameters that have a gradient."""
        for group, parameters, gradients in _with_gradients(self.param_groups):
            kept = self.remembered(parameters, "momentum", group["dtype"])
            decay = group["weight_decay"]
            if decay:
                decayed = torch._foreach_add(gradients, parameters, alpha=decay)
                gradients = list(decayed)
            momenta = []
            for old, gradient in zip(kept, gradients, strict=True):
                momenta.append(old.to(gradient.dtype))
            rounded = torch.tensor(group["momentum"], dtype=group["dtype"]).item()
            torch._foreach_mul_(momenta, rounded)
            torch._foreach_add_(momenta, gradients)
            steps: list[Tensor] | tuple[Tensor, ...] = momenta
            if group["nesterov"]:
                steps = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])
            for old, new in zip(kept, momenta, strict=True):
                old.copy_(new)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, as in torch, but keep the momentum's own dtype.

        Args:
            state_dict: From `state_dict()`.
        """
        # torch gives what it loads the dtype of the weights.
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.state:
                    state = self.state[parameter]
                    state["momentum"] = state["momentum"].to(group["dtype"])


class Muon(_Optimizer):
    """Muon for the groups with `matrices`, AdamW for the others.

    Keller Jordan's optimiser (kellerjordan.github.io/posts/muon), with the same update
    as `torch.optim.Muon`, which orthogonalises one matrix at a time. All blocks of a
    Mixer have the same shapes, so here they are stacked: two batched iterations,
    whatever the depth.
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
        """Prepare the groups.

        Args:
            groups: As torch's optimisers take them; `matrices` (bool) says that all
                parameters have two axes, and Muon takes them.
            lr: The learning rate.
            momentum: Of the matrices.
            nesterov: Look one step ahead, for the matrices.
            ns_steps: Newton-Schulz iterations.
            adjust_lr: "original" multiplies the orthogonal update by
                sqrt(max(1, rows / columns)), "match_rms_adamw" by
                0.2 sqrt(max(rows, columns)), after which the learning rates and weight
                decays of AdamW suit it (arXiv 2502.16982).
            dtype: Of the orthogonalisation; None: bf16, and fp32 on a CPU.
            betas: Of AdamW.
            weight_decay: The share of a parameter, times lr, that each step takes.
        """
        assert adjust_lr in ("original", "match_rms_adamw"), adjust_lr
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "betas": betas,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
            "adjust_lr": adjust_lr,
            "dtype": dtype,
            "matrices": False,
            # `fused` tells torch's load_state_dict where the number of steps belongs:
            # on the device, as fused AdamW wants.
            "fused": True,
        }
        super().__init__(groups, defaults)
        for group in self.param_groups:
            if group["matrices"]:
                assert all(parameter.ndim == 2 for parameter in group["params"])

    def update(self) -> None:
        """Change all parameters that have a gradient."""
        matrices = [group for group in self.param_groups if group["matrices"]]
        others = [group for group in self.param_groups if not group["matrices"]]
        self._step_matrices(matrices)
        self._step_others(others)

    def _step_matrices(self, groups: list[Group]) -> None:
        """Take Muon's step."""
        directions: list[Tensor] = []
        for group, parameters, gradients in _with_gradients(groups):
            momenta = self.remembered(parameters, "momentum")
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            if group["nesterov"]:
                directions += _mixed(gradients, momenta, group["momentum"])
            else:
                directions += momenta

        # Momentum and learning rate belong to a group; the orthogonalisation goes over
        # all groups at once, because layers of all groups have the same shapes.
        ns_steps = self.defaults["ns_steps"]
        updates = iter(orthogonalize(directions, ns_steps, self.defaults["dtype"]))
        for group, parameters, _ in _with_gradients(groups):
            own = list(islice(updates, len(parameters)))
            scales = []
            for parameter in parameters:
                scales.append(_scale(group["adjust_lr"], *parameter.shape))
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            steps = torch._foreach_mul(own, scales)
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _step_others(self, groups: list[Group]) -> None:
        """Take AdamW's step, by torch."""
        for group, parameters, gradients in _with_gradients(groups):
            counts = []
            for parameter in parameters:
                state = self.state[parameter]
                if "step" not in state:
                    state["step"] = torch.zeros(
                        (), dtype=torch.float32, device=parameter.device
                    )
                counts.append(state["step"])
            adamw(
                parameters,
                gradients,
                self.remembered(parameters, "exp_avg"),
                self.remembered(parameters, "exp_avg_sq"),
                [],
                counts,
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
    """Replace each matrix U S V^T by about U V^T.

    The quintic Newton-Schulz iteration. Singular values above a hundredth of the
    Frobenius norm end in [0.68, 1.14] or so after five steps.

    Args:
        matrices: Those of equal shape, upright or not, are iterated as one stack.
        steps: Iterations.
        dtype: To compute in; None: bf16, and fp32 on a CPU.

    Returns:
        The matrices in their own shapes and dtypes.
    """
    # The two shapes of a block's MLP, (D, 4 D) and (4 D, D), go into one stack: lying
    # on their side they are equal, and the product with the transpose is the small one.
    stacks: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        shape = tuple(sorted(matrix.shape))
        stacks.setdefault(shape, []).append(index)
    out = list(matrices)
    for indices in stacks.values():
        lying = [_turned(matrices[i], _is_upright(matrices[i])) for i in indices]
        own = lying[0].dtype
        working = dtype
        if working is None:
            on_cpu = lying[0].device.type == "cpu"
            working = torch.float32 if on_cpu else torch.bfloat16
        result = _newton_schulz(torch.stack(lying).to(working), steps).to(own)
        for i, matrix in zip(indices, result, strict=True):
            out[i] = _turned(matrix, _is_upright(matrices[i]))
    return out


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """Move the singular values of stacked matrices (rows <= columns) towards one.

    Each step is x <- (a + b xx' + c (xx')^2) x.
    """
    a, b, c = _NS_COEFFICIENTS
    # The iteration needs singular values of at most one; the Frobenius norm bounds them.
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _scale(adjust_lr: str, rows: int, columns: int) -> float:
    """Return the factor of an orthogonal update of that shape."""
    if adjust_lr == "original":
        return math.sqrt(max(1, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def _is_upright(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _turned(matrix: Tensor, turn: bool) -> Tensor:
    return matrix.mT if turn else matrix


def _mixed(
    first: list[Tensor], second: list[Tensor], share: float
) -> tuple[Tensor, ...]:
    """Return (1 - share) first + share second, in new tensors."""
    mixed = torch._foreach_mul(first, 1)
    torch._foreach_lerp_(mixed, second, share)
    return mixed


def _with_gradients(
    groups: list[Group],
) -> Iterator[tuple[Group, list[Tensor], list[Tensor]]]:
    """Yield each group with its parameters that have a gradient, and the gradients."""
    for group in groups:
        parameters = [p for p in group["params"] if p.grad is not None]
        if parameters:
            yield group, parameters, [p.grad for p in parameters]
