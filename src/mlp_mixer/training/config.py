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
from ..images.settings import Augment, Mix
from .optim_config import OptimChoice as OptimChoice
from .optim_config import ScheduleChoice as ScheduleChoice

_MOST_EPOCHS = 1e9  # beyond which a number of steps is none
_SEEDS = {"least": -(2**63), "most": 2**64 - 1}  # of torch's generators


@dataclass(frozen=True)
class ModelChoice:
    """Names a variant, and what is to differ from it.

    A field that is None keeps the variant's value. Classes, and the channels of fresh
    weights, come from the data.
    """

    name: str = "mixer_s16"

    # Weights to start from: what `load` takes. They bring their own architecture and
    # preprocessing, so of the fields below only the image and patch size, the channels and
    # the noise (dropout, drop path) can be set beside them.
    init: str | None = None

    # Which network of the file at `init`, if it holds several: what `load` takes as key.
    key: str | None = None

    image_size: int | tuple[int, int] | None = None

    # Of the images, where the weights of `init` were made for others: the stem's kernels
    # are summed for one channel, repeated for more, as by timm's in_chans.
    in_channels: int | None = None

    # How the stem of fresh weights begins; whitened: by the training images' patches.
    stem: Literal["random", "whitened"] = "random"

    # How the weights of `init` come to another image size.
    resize: ResizeMethod = "block_diagonal"

    # The new head on the weights of `init`. known: rows of the classes that they know by
    # name, zeros for others. zero: zeros, as in the paper. fitted: by logistic
    # regression on the features of the training images, before the first step.
    head: Literal["known", "zero", "fitted"] = "known"

    # How the weights of `init` see an image at evaluation. weights: by their own
    # preprocessing. whole: squashed to the image size, without a crop, as vit_jax
    # fine-tunes; the new checkpoint carries it.
    evaluation: Literal["weights", "whole"] = "weights"

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

    # balanced: an epoch is as long, and every class comes equally often in it.
    sampling: Literal["shuffle", "balanced"] = "shuffle"

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
    # auto: the loss of a class counts by its inverse frequency, 1 in the mean.
    class_weights: Literal["none", "auto"] = "none"

    # Decay of an exponential moving average of the weights, which is then what is
    # evaluated and saved; 0: no average.
    ema: float = 0.0
    # What the weights of the start count in it (WiSE-FT, arXiv 2109.01903); 0: nothing.
    start_share: float = 0.0

    # auto: bf16 on a GPU that has it, and on a CPU where a short trial of products says
    # that it is worth it. A run keeps what it came to. fast: an older word for auto.
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

    # What follows a gradient whose norm is more than spike_factor times the median of the
    # last 100 steps; skip: the step is left out. The norm is then waited for in each step.
    on_spike: Literal["none", "skip"] = "none"
    spike_factor: float = 10.0

    eval_every_epochs: float = 1.0
    # Evaluations in a row that are not better than the best, after which the run ends.
    patience: int | None = None
    log_every_steps: int = 20
    # The norm of each block's gradient goes into the journal, measured every so many
    # steps: another pass over the gradient. None: it is not measured.
    block_norms_every_steps: int | None = None
    # A state is saved with every evaluation, and as often as this says.
    save_every_steps: int | None = None

    def __post_init__(self) -> None:
        if self.precision == "fast":
            object.__setattr__(self, "precision", "auto")
        _within("train.epochs", self.epochs, above=0)
        _within("train.epochs", self.epochs, most=_MOST_EPOCHS)
        _within("train.steps", self.steps, above=0)
        _within("train.images", self.images, above=0)
        _within("train.fewest_epochs", self.fewest_epochs, above=0)
        _within("train.most_epochs", self.most_epochs, above=0)
        _within("train.eval_every_epochs", self.eval_every_epochs, above=0)
        _within("train.batch_size", self.batch_size, above=0)
        _within("train.accumulate", self.accumulate, above=0)
        _within("train.log_every_steps", self.log_every_steps, above=0)
        _within("train.save_every_steps", self.save_every_steps, above=0)
        _within("train.spike_factor", self.spike_factor, above=1)
        _within("train.block_norms_every_steps", self.block_norms_every_steps, above=0)
        _within("train.threads", self.threads, above=0)
        _within("train.patience", self.patience, above=0)
        _within("train.label_smoothing", self.label_smoothing, least=0, below=1)
        _within("train.ema", self.ema, least=0, below=1)
        _within("train.start_share", self.start_share, least=0, below=1)
        _within("train.seed", self.seed, **_SEEDS)


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

    # Which network of the file at `teacher`, if it holds several.
    key: str | None = None
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
