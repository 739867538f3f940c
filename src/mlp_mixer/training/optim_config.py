"""Settings of the optimiser and of its learning rate; a part of `TrainConfig`. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import check_bounds as _within
from ..errors import UserError


@dataclass(frozen=True)
class OptimChoice:
    """Says how gradients become new weights.

    Weight decay applies to kernels only, never to biases, norms, scales and position
    embeddings. adamw, lion and muon take `lr * weight_decay` of a kernel at each step,
    sgd adds `weight_decay * kernel` to the gradient, and lamb to Adam's direction, which
    it then makes as long as the kernel (`optim.lamb`). `optim.build.decay_of_big_vision` translates the `wd` of
    google-research/big_vision.

    Raises:
        UserError: A field is out of range.
    """

    name: Literal["adamw", "sgd", "lion", "muon", "lamb"] = "adamw"

    # The peak learning rate.
    lr: float = 1e-3
    weight_decay: float = 0.05

    # Of adamw and lamb, and of what muon leaves to adamw.
    betas: tuple[float, float] = (0.9, 0.999)

    # Of sgd.
    momentum: float = 0.9
    nesterov: bool = False

    # Longest gradient, over all parameters together; None: any length.
    clip_norm: float | None = 1.0

    # The head learns at lr, each layer below it at this share of the layer above.
    layer_decay: float = 1.0

    # Of sgd; bf16: as vit_jax fine-tunes.
    momentum_dtype: Literal["fp32", "bf16"] = "fp32"

    lion_betas: tuple[float, float] = (0.9, 0.99)

    muon_momentum: float = 0.95
    muon_nesterov: bool = True
    # Steps and dtype of the Newton-Schulz iteration; auto: bf16 on a GPU, and where the
    # run computes in bf16.
    muon_ns_steps: int = 5
    muon_ns_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    # match_rms_adamw: updates as large as AdamW's, whose lr and decay then suit it.
    muon_adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    # Learning rate of what is not a kernel of a block, relative to lr. With
    # muon_adjust_lr=original about 0.015 suits it.
    muon_adamw_lr: float = 1.0

    # Sharpness-aware minimisation. Length of the ascent step at the peak learning rate;
    # 0: plain gradients.
    rho: float = 0.0
    # GSAM: its length where the learning rate has fallen to schedule.final; None: rho.
    rho_min: float | None = None
    # GSAM: how strongly it closes the surrogate gap.
    alpha: float = 0.0
    # m, the images that share an ascent step; None: all that a process has.
    sam_images: int | None = None

    def __post_init__(self) -> None:
        _within("optim.lr", self.lr, above=0)
        _within("optim.weight_decay", self.weight_decay, least=0)
        _within("optim.momentum", self.momentum, least=0, below=1)
        _within("optim.muon_momentum", self.muon_momentum, least=0, below=1)
        for beta in self.betas:
            _within("optim.betas", beta, least=0, below=1)
        for beta in self.lion_betas:
            _within("optim.lion_betas", beta, least=0, below=1)
        _within("optim.clip_norm", self.clip_norm, above=0)
        _within("optim.layer_decay", self.layer_decay, above=0, most=1)
        _within("optim.muon_ns_steps", self.muon_ns_steps, least=1, below=100)
        _within("optim.muon_adamw_lr", self.muon_adamw_lr, above=0)
        _within("optim.rho", self.rho, least=0)
        _within("optim.rho_min", self.rho_min, least=0)
        _within("optim.alpha", self.alpha, least=0)
        _within("optim.sam_images", self.sam_images, above=0)
        if self.nesterov and self.momentum == 0:
            raise UserError(
                "optim.nesterov needs a momentum: set optim.momentum above 0, or "
                "optim.nesterov=false"
            )


@dataclass(frozen=True)
class ScheduleChoice:
    """Says how the learning rate rises and falls, in units of its peak.

    `optim.schedule.lr_factor` states the formulas and their sources.

    Raises:
        UserError: A field is out of range, or the warm-up is stated twice.
    """

    decay: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"

    # The warm-up is linear. It is stated in epochs, or instead in steps, or instead as
    # a share of the whole run, which follows train.epochs.
    warmup_epochs: float = 1.0
    warmup_steps: int | None = None
    warmup_share: float | None = None

    # zero: the first step learns nothing, as in big_vision and vit_jax.
    warmup_from: Literal["one", "zero"] = "one"

    # Of rsqrt: steps after which the rate is 1 / sqrt(2).
    timescale: float = 10_000.0

    # Steps at the end over which the rate falls linearly to zero.
    cooldown_steps: int = 0

    # Where the decay ends.
    final: float = 0.0

    def __post_init__(self) -> None:
        _within("schedule.warmup_epochs", self.warmup_epochs, least=0)
        _within("schedule.warmup_steps", self.warmup_steps, least=0)
        _within("schedule.warmup_share", self.warmup_share, least=0, most=1)
        if self.warmup_steps is not None and self.warmup_share is not None:
            raise UserError(
                "schedule.warmup_steps and schedule.warmup_share exclude each other; set "
                "one to none"
            )
        _within("schedule.timescale", self.timescale, above=0)
        _within("schedule.cooldown_steps", self.cooldown_steps, least=0)
        _within("schedule.final", self.final, least=0, most=1)
