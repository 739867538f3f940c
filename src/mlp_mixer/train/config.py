"""Everything that decides a training run, as one frozen value: recipes return it, `--set a.b=c` changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..devices import Precision
from ..errors import UserError
from ..images.augment import Augment
from ..models.layers import DropPathRule, Gelu


@dataclass(frozen=True)
class ModelChoice:
    """A variant by name; a field left at none keeps the variant's value, classes and channels come from the data."""

    name: str = "mixer_s16"
    image_size: int | tuple[int, int] | None = None
    patch_size: int | None = None
    num_blocks: int | None = None
    hidden_dim: int | None = None
    tokens_mlp_dim: int | None = None
    channels_mlp_dim: int | None = None
    gelu: Gelu | None = None
    norm_eps: float | None = None
    final_norm: bool | None = None
    dropout: float | None = None
    drop_path: float | None = None
    drop_path_rule: DropPathRule | None = None


@dataclass(frozen=True)
class DataChoice:
    """Where the images come from and how they are split; a test split is never read in training."""

    source: str = "digits"
    val_fraction: float = 0.1  # of the training images, stratified: chooses the best checkpoint
    test_fraction: float = 0.2  # held out where the source has no test split of its own
    split_seed: int = 0
    workers: int | None = None  # none: as many as are worth having

    def __post_init__(self) -> None:
        _within("data.val_fraction", self.val_fraction, least=0, below=1)
        _within("data.test_fraction", self.test_fraction, above=0, below=1)
        if self.workers is not None:
            _within("data.workers", self.workers, least=0)


@dataclass(frozen=True)
class PreprocessChoice:
    """The preprocessing record that the checkpoint will carry (its size is the model's)."""

    resize: Literal["resmall", "resize", "none"] = "resmall"
    crop_pct: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "area"] = "bicubic"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class OptimChoice:
    """The optimiser. Weight decay applies to kernels only, never to biases and norms."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9  # sgd
    nesterov: bool = False  # sgd
    clip_norm: float | None = 1.0  # of the gradient over all parameters

    def __post_init__(self) -> None:
        _within("optim.lr", self.lr, above=0)
        _within("optim.weight_decay", self.weight_decay, least=0)
        _within("optim.momentum", self.momentum, least=0, below=1)
        for beta in self.betas:
            _within("optim.betas", beta, least=0, below=1)
        if self.clip_norm is not None:
            _within("optim.clip_norm", self.clip_norm, above=0)


@dataclass(frozen=True)
class ScheduleChoice:
    """Linear warm-up from zero, then decay to `final` times the peak."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    final: float = 0.0

    def __post_init__(self) -> None:
        _within("schedule.warmup_epochs", self.warmup_epochs, least=0)
        _within("schedule.final", self.final, least=0, most=1)


@dataclass(frozen=True)
class LoopChoice:
    """The loop itself."""

    epochs: float = 10.0
    batch_size: int = 128  # over all processes
    seed: int = 0
    label_smoothing: float = 0.0
    ema: float = 0.0  # decay of an exponential moving average of the weights, which is then what is saved; 0: none
    precision: Precision = "auto"  # auto: bf16 on a GPU that has it
    device: str = "auto"
    threads: int | None = None  # of the CPU; none: torch's choice. Tiny models are faster, and steadier, with one
    grad_checkpointing: bool = False
    eval_every_epochs: float = 1.0
    log_every_steps: int = 20
    save_every_steps: int | None = None  # none: a state is saved with every evaluation

    def __post_init__(self) -> None:
        for name in ("epochs", "eval_every_epochs", "batch_size", "log_every_steps", "save_every_steps", "threads"):
            if getattr(self, name) is not None:
                _within(f"train.{name}", getattr(self, name), above=0)
        _within("train.label_smoothing", self.label_smoothing, least=0, below=1)
        _within("train.ema", self.ema, least=0, below=1)


@dataclass(frozen=True)
class TrainConfig:
    """A complete training run."""

    recipe: str = ""
    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataChoice = field(default_factory=DataChoice)
    preprocess: PreprocessChoice = field(default_factory=PreprocessChoice)
    augment: Augment = field(default_factory=Augment)
    optim: OptimChoice = field(default_factory=OptimChoice)
    schedule: ScheduleChoice = field(default_factory=ScheduleChoice)
    train: LoopChoice = field(default_factory=LoopChoice)


def _within(
    name: str,
    value: float,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """`UserError` naming the field unless the value keeps all given bounds."""
    limits = (("above", above), ("at least", least), ("below", below), ("at most", most))
    kept = (
        (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    )
    if not kept:
        wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        raise UserError(f"{name} must be {wanted}, got {value}")
