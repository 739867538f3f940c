"""Everything that decides a training run, as one frozen value: recipes return it,
`--set a.b=c` changes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..choices import DropPathRule, Gelu, Kernels, Precision, ResizeMethod
from ..errors import UserError
from ..images.settings import Augment, Mix


@dataclass(frozen=True)
class ModelChoice:
    """A variant by name; a field left at none keeps the variant's value, classes and
    channels come from the data.
    """

    name: str = "mixer_s16"
    init: str | None = (
        None  # weights to start from (what `load` takes), with their architecture and preprocessing
    )
    image_size: int | tuple[int, int] | None = None
    stem: Literal["random", "whitened"] = (
        "random"  # of fresh weights; whitened: by the training images' patches
    )
    resize: ResizeMethod = (
        "block_diagonal"  # how the weights of init come to another image size
    )
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
    """Where the images come from and how they are split; a test split is never read in
    training.
    """

    source: str = "digits"
    val_fraction: float = (
        0.1  # of the training images, stratified: chooses the best checkpoint
    )
    test_fraction: float = 0.2  # held out where the source has no test split of its own
    split_seed: int = 0
    # of each image in a batch, each time augmented differently (repeated augmentation)
    repeats: int = 1
    workers: int | None = None  # none: as many as are worth having

    def __post_init__(self) -> None:
        _within("data.val_fraction", self.val_fraction, least=0, below=1)
        _within("data.test_fraction", self.test_fraction, above=0, below=1)
        _within("data.repeats", self.repeats, least=1)
        if self.workers is not None:
            _within("data.workers", self.workers, least=0)


@dataclass(frozen=True)
class PreprocessChoice:
    """The preprocessing record that the checkpoint will carry (its size is the
    model's).
    """

    resize: Literal["resmall", "resize", "none"] = "resmall"
    crop_pct: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "area"] = "bicubic"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class OptimChoice:
    """The optimiser. Weight decay applies to kernels only, never to biases and norms.

    adamw, lion and muon take `lr * weight_decay` of a kernel at each step, sgd adds
    `weight_decay * kernel` to the gradient. `optim.decay_of_big_vision` translates the
    `wd` of google-research/big_vision.
    """

    name: Literal["adamw", "sgd", "lion", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)  # adamw, and what muon leaves to it
    momentum: float = 0.9  # sgd
    nesterov: bool = False  # sgd
    clip_norm: float | None = 1.0  # of the gradient over all parameters
    layer_decay: float = (
        1.0  # the head learns at lr, each layer below it at this share of the one above
    )
    momentum_dtype: Literal["fp32", "bf16"] = "fp32"  # sgd; bf16: as vit_jax fine-tunes
    lion_betas: tuple[float, float] = (0.9, 0.99)
    muon_momentum: float = 0.95
    muon_nesterov: bool = True
    muon_ns_steps: int = 5
    muon_ns_dtype: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU
    muon_adjust_lr: Literal["match_rms_adamw", "original"] = (
        "match_rms_adamw"  # the first takes AdamW's lr and decay
    )
    # of what is no kernel of a block, relative to lr; original wants about 0.015
    muon_adamw_lr: float = 1.0
    # length of SAM's ascent step at the peak learning rate; 0: no sharpness-aware
    # minimisation
    rho: float = 0.0
    rho_min: float | None = (
        None  # and where the learning rate has fallen to schedule.final (GSAM); none: rho
    )
    alpha: float = 0.0  # how strongly GSAM closes the surrogate gap
    sam_images: int | None = (
        None  # m, the images that share an ascent step; none: all that a process has
    )

    def __post_init__(self) -> None:
        _within("optim.lr", self.lr, above=0)
        _within("optim.weight_decay", self.weight_decay, least=0)
        for name in ("momentum", "muon_momentum"):
            _within(f"optim.{name}", getattr(self, name), least=0, below=1)
        for name in ("betas", "lion_betas"):
            for beta in getattr(self, name):
                _within(f"optim.{name}", beta, least=0, below=1)
        if self.clip_norm is not None:
            _within("optim.clip_norm", self.clip_norm, above=0)
        _within("optim.layer_decay", self.layer_decay, above=0, most=1)
        _within("optim.muon_ns_steps", self.muon_ns_steps, least=1, below=100)
        _within("optim.muon_adamw_lr", self.muon_adamw_lr, above=0)
        for name in ("rho", "rho_min", "alpha"):
            if getattr(self, name) is not None:
                _within(f"optim.{name}", getattr(self, name), least=0)
        if self.sam_images is not None:
            _within("optim.sam_images", self.sam_images, above=0)
        if self.nesterov and self.momentum == 0:
            raise UserError(
                "optim.nesterov needs a momentum: set optim.momentum above 0, or optim.nesterov=false"
            )


@dataclass(frozen=True)
class ScheduleChoice:
    """Linear warm-up, then decay to `final` times the peak; `schedule.lr_factor` states
    the formulas and sources.
    """

    decay: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    warmup_steps: int | None = None  # instead of warmup_epochs
    warmup_share: float | None = (
        None  # of the whole run, instead of warmup_epochs: follows train.epochs
    )
    warmup_from: Literal["one", "zero"] = (
        "one"  # zero: the first step learns nothing, as in big_vision and vit_jax
    )
    timescale: float = 10_000.0  # rsqrt: steps after which the rate is 1 / sqrt(2)
    cooldown_steps: int = 0  # at the end, linearly to zero
    final: float = 0.0

    def __post_init__(self) -> None:
        _within("schedule.warmup_epochs", self.warmup_epochs, least=0)
        if self.warmup_steps is not None:
            _within("schedule.warmup_steps", self.warmup_steps, least=0)
        if self.warmup_share is not None:
            _within("schedule.warmup_share", self.warmup_share, least=0, most=1)
            if self.warmup_steps is not None:
                raise UserError(
                    "schedule.warmup_steps and schedule.warmup_share exclude each other; set one to none"
                )
        _within("schedule.timescale", self.timescale, above=0)
        _within("schedule.cooldown_steps", self.cooldown_steps, least=0)
        _within("schedule.final", self.final, least=0, most=1)


@dataclass(frozen=True)
class LoopChoice:
    """The loop itself."""

    epochs: float = 10.0
    steps: int | None = None  # instead of epochs: how the paper states fine-tuning
    batch_size: int = 128  # over all processes
    # parts of a process's share that are computed one after the other, for less memory
    accumulate: int = 1
    seed: int = 0
    loss: Literal["softmax", "sigmoid"] = (
        "softmax"  # sigmoid: one yes or no per class, as big_vision's recipe
    )
    head_bias: float = 0.0  # of a new head: -6.9 there, so that sigmoids begin near 0
    label_smoothing: float = 0.0
    # decay of an exponential moving average of the weights, which is then what is
    # saved; 0: none
    ema: float = 0.0
    precision: Precision = "auto"  # auto: bf16 on a GPU that has it
    device: str = "auto"
    threads: int | None = (
        None  # of the CPU; none: torch's choice. Tiny models are faster, and steadier, with one
    )
    grad_checkpointing: bool = False
    # token mixing fused on a GPU; auto: where it passes its check there, else plain
    kernels: Kernels = "auto"
    compile: bool = False  # the forward and backward pass by torch.compile
    parallel: Literal["ddp", "fsdp"] = (
        "ddp"  # several processes: whole weights in each, or a part
    )
    nonfinite: Literal["stop", "rollback"] = (
        "stop"  # at a loss or gradient that is no number; rollback: skip the step
    )
    eval_every_epochs: float = 1.0
    patience: int | None = (
        None  # evaluations in a row that are not better than the best, after which the run ends
    )
    log_every_steps: int = 20
    save_every_steps: int | None = None  # none: a state is saved with every evaluation

    def __post_init__(self) -> None:
        positive = (
            "epochs",
            "steps",
            "eval_every_epochs",
            "batch_size",
            "accumulate",
            "log_every_steps",
        )
        for name in (*positive, "save_every_steps", "threads", "patience"):
            if getattr(self, name) is not None:
                _within(f"train.{name}", getattr(self, name), above=0)
        _within("train.label_smoothing", self.label_smoothing, least=0, below=1)
        _within("train.ema", self.ema, least=0, below=1)


@dataclass(frozen=True)
class DistillChoice:
    """A teacher: (1 - weight) of the loss is the labels', weight T^2 the divergence
    from its answers.

    Both networks' logits are divided by the temperature T for it; T^2 keeps the
    gradient's size (arXiv 1503.02531).
    """

    teacher: str | None = (
        # weights (what `load` takes) that know all classes of the images by name; none:
        # labels
        None
    )
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        _within("distill.temperature", self.temperature, above=0)
        _within("distill.weight", self.weight, above=0, most=1)


@dataclass(frozen=True)
class TrainConfig:
    """A complete training run."""

    recipe: str = ""
    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataChoice = field(default_factory=DataChoice)
    preprocess: PreprocessChoice = field(default_factory=PreprocessChoice)
    augment: Augment = field(default_factory=Augment)
    mix: Mix = field(default_factory=Mix)
    distill: DistillChoice = field(default_factory=DistillChoice)
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
    limits = (
        ("above", above),
        ("at least", least),
        ("below", below),
        ("at most", most),
    )
    kept = (
        (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    )
    if not kept:
        wanted = " and ".join(
            f"{word} {limit:g}" for word, limit in limits if limit is not None
        )
        raise UserError(f"{name} must be {wanted}, got {value}")
