"""Everything that decides a training run, as one frozen value.

Recipes return a `TrainConfig`, and `--set a.b=c` changes it. No torch is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..choices import DropPathRule, Gelu, Kernels, Precision, ResizeMethod
from ..config import check_bounds as _within
from ..config import from_dict
from ..errors import UserError
from ..images.settings import Augment, Mix


@dataclass(frozen=True)
class ModelChoice:
    """Names a variant, and what is to differ from it.

    A field that is None keeps the variant's value. Classes and channels come from the
    data.
    """

    name: str = "mixer_s16"

    # Weights to start from: what `load` takes. They bring their own architecture and
    # preprocessing, so of the fields below only the image and patch size and the noise
    # (dropout, drop path) can be set beside them.
    init: str | None = None

    image_size: int | tuple[int, int] | None = None

    # How the stem of fresh weights begins; whitened: by the training images' patches.
    stem: Literal["random", "whitened"] = "random"

    # How the weights of `init` come to another image size.
    resize: ResizeMethod = "block_diagonal"

    # The new head on the weights of `init`. known: rows of the classes that they know by
    # name, zeros for others. zero: zeros, as in the paper. fitted: by logistic
    # regression on the features of the training images, before the first step.
    head: Literal["known", "zero", "fitted"] = "known"

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
    """Says where the images come from and how they are split.

    A test split is never read in training.

    Raises:
        UserError: A field is out of range.
    """

    source: str = "digits"

    # Share of the training images that choose the best checkpoint, of each class alike.
    val_fraction: float = 0.1

    # Share that is held out where the dataset has no test split of its own.
    test_fraction: float = 0.2

    split_seed: int = 0

    # What decides which images are held out: each image itself (a hash of its content),
    # so that a grown folder keeps its old test images; or its position, as in 0.1.0.
    split_by: Literal["image", "position"] = "image"

    # Copies of each image in a batch, each augmented differently (repeated
    # augmentation, Hoffer et al. 2020, arXiv 1901.09335).
    repeats: int = 1

    # Processes that prepare batches; None: as many as are worth having.
    workers: int | None = None

    def __post_init__(self) -> None:
        _within("data.val_fraction", self.val_fraction, least=0, below=1)
        _within("data.test_fraction", self.test_fraction, above=0, below=1)
        _within("data.repeats", self.repeats, least=1)
        _within("data.workers", self.workers, least=0)


@dataclass(frozen=True)
class PreprocessChoice:
    """Says how an image becomes the network's input; the checkpoint will carry it.

    The image size is the model's. See `images.preprocess.Preprocess` for the fields.
    """

    resize: Literal["resmall", "resize", "none"] = "resmall"
    crop_pct: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "area"] = "bicubic"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class OptimChoice:
    """Says how gradients become new weights.

    Weight decay applies to kernels only, never to biases and norms. adamw, lion and muon
    take `lr * weight_decay` of a kernel at each step, sgd adds `weight_decay * kernel`
    to the gradient. `optim.build.decay_of_big_vision` translates the `wd` of
    google-research/big_vision.

    Raises:
        UserError: A field is out of range.
    """

    name: Literal["adamw", "sgd", "lion", "muon"] = "adamw"

    # The peak learning rate.
    lr: float = 1e-3
    weight_decay: float = 0.05

    # Of adamw, and of what muon leaves to it.
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
    # Steps and dtype of the Newton-Schulz iteration; auto: bf16 on a GPU.
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


@dataclass(frozen=True)
class LoopChoice:
    """Says how long to train, on what, with which loss, and how often to look.

    Raises:
        UserError: A field is out of range.
    """

    epochs: float = 10.0
    # Instead of epochs: how the paper states fine-tuning.
    steps: int | None = None
    # Instead of epochs: so many images in all, so few images are seen more often. The
    # number of epochs stays within the two bounds.
    images: int | None = None
    fewest_epochs: float = 10.0
    most_epochs: float = 300.0

    # Over all processes.
    batch_size: int = 128
    # Parts of a process's share that are computed one after the other, to save memory.
    accumulate: int = 1

    seed: int = 0

    # sigmoid: a yes or no for each class, as in big_vision's recipe.
    loss: Literal["softmax", "sigmoid"] = "softmax"
    # Of a fresh head; -6.9 in big_vision's recipe, so that sigmoids begin near 0.
    head_bias: float = 0.0
    label_smoothing: float = 0.0

    # Decay of an exponential moving average of the weights, which is then what is
    # evaluated and saved; 0: no average.
    ema: float = 0.0

    # auto: bf16 on a GPU that has it; fast: also on a CPU that has it.
    precision: Precision = "auto"
    device: str = "auto"
    # Of the CPU; None: torch's choice. Tiny models are faster with one, and steadier.
    threads: int | None = None

    grad_checkpointing: bool = False
    # Token mixing on a GPU; auto: fused where it passes its check there, else plain.
    kernels: Kernels = "auto"
    # Forward and backward pass by torch.compile.
    compile: bool = False
    # Several processes have the whole weights each, or a part of them (FSDP2).
    parallel: Literal["ddp", "fsdp"] = "ddp"

    # What follows a loss or gradient that is not finite; rollback: go back to the newest
    # state and leave the step out.
    nonfinite: Literal["stop", "rollback"] = "stop"

    eval_every_epochs: float = 1.0
    # Evaluations in a row that are not better than the best, after which the run ends.
    patience: int | None = None
    log_every_steps: int = 20
    # A state is saved with every evaluation, and as often as this says.
    save_every_steps: int | None = None

    def __post_init__(self) -> None:
        _within("train.epochs", self.epochs, above=0)
        _within("train.steps", self.steps, above=0)
        _within("train.images", self.images, above=0)
        _within("train.fewest_epochs", self.fewest_epochs, above=0)
        _within("train.most_epochs", self.most_epochs, above=0)
        _within("train.eval_every_epochs", self.eval_every_epochs, above=0)
        _within("train.batch_size", self.batch_size, above=0)
        _within("train.accumulate", self.accumulate, above=0)
        _within("train.log_every_steps", self.log_every_steps, above=0)
        _within("train.save_every_steps", self.save_every_steps, above=0)
        _within("train.threads", self.threads, above=0)
        _within("train.patience", self.patience, above=0)
        _within("train.label_smoothing", self.label_smoothing, least=0, below=1)
        _within("train.ema", self.ema, least=0, below=1)


@dataclass(frozen=True)
class DistillChoice:
    """Names a teacher, a network whose answers are learned, and its part of the loss.

    The loss is (1 - weight) that of the labels and weight T^2 the divergence from the
    teacher's answers. Both networks' logits are divided by the temperature T for it; T^2
    keeps the gradient's size (Hinton et al. 2015, arXiv 1503.02531).

    Raises:
        UserError: A field is out of range.
    """

    # Weights that know all classes of the images by name: what `load` takes. None: the
    # labels alone.
    teacher: str | None = None
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        _within("distill.temperature", self.temperature, above=0)
        _within("distill.weight", self.weight, above=0, most=1)


@dataclass(frozen=True)
class PretextChoice:
    """Names a task that needs no labels, in the place of classes.

    The checkpoint has no classifier then. `extras.pretext` states the tasks.

    Raises:
        UserError: A field is out of range.
    """

    # views: find the other view of the same image (SimCLR); two views of an image come
    # from data.repeats=2. covered: guess the pixels of covered patches (SimMIM).
    name: Literal["none", "views", "covered"] = "none"

    # Of views: similarities are divided by it.
    temperature: float = 0.1
    # Of views: numbers that an image is projected to, only for this comparison.
    projection_dim: int = 128

    # Of covered: share of the patches.
    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        _within("pretext.temperature", self.temperature, above=0)
        _within("pretext.projection_dim", self.projection_dim, least=1)
        _within("pretext.mask_ratio", self.mask_ratio, above=0, below=1)


@dataclass(frozen=True)
class TrainConfig:
    """Holds a complete training run.

    Attributes:
        recipe: The name of the recipe that it comes from.
        model: The network.
        data: The images.
        preprocess: How an image becomes the network's input.
        augment: What happens to a training image before.
        mix: Mixup and CutMix.
        distill: A teacher.
        pretext: A task without labels.
        optim: The optimiser.
        schedule: The learning rate.
        train: The loop.
    """

    recipe: str = ""
    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataChoice = field(default_factory=DataChoice)
    preprocess: PreprocessChoice = field(default_factory=PreprocessChoice)
    augment: Augment = field(default_factory=Augment)
    mix: Mix = field(default_factory=Mix)
    distill: DistillChoice = field(default_factory=DistillChoice)
    pretext: PretextChoice = field(default_factory=PretextChoice)
    optim: OptimChoice = field(default_factory=OptimChoice)
    schedule: ScheduleChoice = field(default_factory=ScheduleChoice)
    train: LoopChoice = field(default_factory=LoopChoice)


def stored_config(values: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration that a run left, of this version or an earlier one.

    Args:
        values: The fields in a run's config.json, or in a saved state.

    Raises:
        UserError: A field is unknown or has a value of another type.
    """
    data = values.get("data")
    # 0.1.0 had no such field, and its runs must find their own test images again.
    if isinstance(data, dict) and "split_by" not in data:
        values = {**values, "data": {**data, "split_by": "position"}}
    return from_dict(TrainConfig, values)
