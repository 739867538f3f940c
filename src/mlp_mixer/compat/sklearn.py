"""A scikit-learn classifier of images in arrays, with this package's training step and
checkpoints inside.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, multiclass, validation

from ..config import override
from ..data import ArraySet, Dataset
from ..devices import cpu_threads, pick_device
from ..errors import UserError
from ..evaluation.accuracy import outputs
from ..models import IsotropicMlp
from ..recipes import get_recipe
from ..recipes.finetune import finetune_auto
from ..training import Run, TrainConfig, prepare
from ..training.extras.linear_probe import fit_logistic
from ..training.optim.build import Ema, build_optimizer
from ..training.step import Stepper
from ..weights import Checkpoint


class MixerClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A Mixer that learns images (N, H, W[, C]), or rows (N, features) that are
    flattened ones.

    Values other than uint8 are brought to 0-255 by the range of the training data, and
    rounded. What was learnt is `checkpoint_`, for `save` and `Predictor`; the accuracy
    on validation images after each epoch, `validation_scores_`.
    model: a variant for the depth and widths of a fresh network, whose patches will
        divide the image.
    image_shape: (H, W[, C]) of a row; by default a gray square, or 1 x features where
        they fill none.
    weights: instead, what `load` takes; images are scaled to their size. frozen: learn
        only a new head for them.
    epochs: by default about 500 steps, or those of `finetune_auto`; `n_iter_no_change`
        without a better one end it.
    settings: more for its `TrainConfig`, such as ("optim.lr=1e-3", "augment.flip=true",
        "data.val_fraction=0").
    """

    def __init__(
        self,
        model: str = "mixer_pico2",
        image_shape: tuple[int, ...] | None = None,
        weights: str | None = None,
        frozen: bool = False,
        epochs: float | None = None,
        settings: tuple[str, ...] = (),
        n_iter_no_change: int = 10,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.image_shape = image_shape
        self.weights = weights
        self.frozen = frozen
        self.epochs = epochs
        self.settings = settings
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> MixerClassifier:
        """Learn N images and their N labels of any type; `UserError` (a ValueError) if
        something does not fit.
        """
        shape, X = _rows(X)
        X, y = validation.validate_data(self, X, y)
        multiclass.check_classification_targets(y)
        features = self.n_features_in_
        side = math.isqrt(self.n_features_in_)
        shape = (
            shape
            or self.image_shape
            or ((side, side) if side * side == features else (1, features))
        )
        if len(shape) not in (2, 3) or math.prod(shape) != features:
            raise UserError(
                f"image_shape is {shape}: expected (H, W) or (H, W, C) of {features} values in all"
            )
        self.image_shape_: tuple[int, ...] = (*shape, 1)[:3]
        self.classes_, numbers = np.unique(y, return_inverse=True)
        self.range_ = (
            (0.0, 255.0) if X.dtype == np.uint8 else (float(X.min()), float(X.max()))
        )
        images = ArraySet(
            self._pixels(X),
            numbers,
            [str(name) for name in self.classes_],
            origin="images",
        )
        self.validation_scores_: list[float] = []
        run = prepare(self._config(images), Dataset("arrays", images))
        with torch.random.fork_rng(devices=[]), cpu_threads(run.config.train.threads):
            network = self._probe(run) if self.frozen else self._learn(run)
        self.checkpoint_ = Checkpoint(
            network.eval().cpu(), run.preprocess, images.classes, run.provenance()
        )
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) float32, in the order of `classes_`."""
        validation.check_is_fitted(self)
        X = validation.validate_data(self, _rows(X)[1], reset=False)
        model = copy.deepcopy(self.checkpoint_.model).to(
            pick_device(self.device)
        )  # what is pickled stays on the CPU
        images = ArraySet(self._pixels(X), np.zeros(len(X), int))
        return (
            outputs(model, model, images, self.checkpoint_.preprocess)
            .softmax(dim=1)
            .numpy()
        )

    def predict(self, X: Any) -> Any:
        """(N,) the likeliest of `classes_`."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likeliest]

    def _pixels(self, X: np.ndarray) -> np.ndarray:
        low, high = self.range_
        if X.dtype != np.uint8 or self.range_ != (0.0, 255.0):
            X = np.rint(
                (X - low).clip(0, high - low) * (255 / (high - low or 1))
            ).astype(np.uint8)
        return X.reshape(-1, *self.image_shape_)

    def _config(self, images: ArraySet) -> TrainConfig:
        (height, width, _) = self.image_shape_
        n = len(images)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        epochs = self.epochs
        settings: dict[str, Any] = {
            "data.split_seed": seed,
            "train.seed": seed,
            "train.device": self.device,
        }
        if self.weights is not None:
            config = finetune_auto(
                self.weights, "arrays", n, small=max(height, width) <= 64
            )
        elif self.frozen:
            raise UserError(
                "frozen=True needs weights to take features from: give weights, or leave it out"
            )
        else:
            config = get_recipe("digits")
            batch = min(64, -(-n // 8))
            most = math.isqrt(min(height, width))
            patch = max(
                side
                for side in range(1, most + 1)
                if height % side == width % side == 0
            )
            settings |= {
                "model.name": self.model,
                "model.patch_size": patch,
                "model.image_size": [height, width],
            }
            settings |= {"train.batch_size": batch, "schedule.warmup_share": 0.1}
            settings |= {"augment.shift": 0, "augment.rotate": 0, "augment.scale": 0}
            epochs = epochs or min(60, max(5, 500 * batch // n))
        settings |= {"train.epochs": epochs} if epochs else {}
        return override(
            config,
            [*(f"{name}={value}" for name, value in settings.items()), *self.settings],
        )

    def _learn(self, run: Run) -> IsotropicMlp:
        """The average of the weights as it was after its best epoch, of equals the
        later.
        """
        average = copy.deepcopy(run.model)
        kept = run.model
        scores = self.validation_scores_
        ema = Ema(run.model, average, run.config.train.ema)
        stepper = Stepper(
            run, run.model.train(), build_optimizer(run.model, run.config.optim), ema
        )
        for step in range(run.total_steps):
            loss = stepper(run.batches()[step], step).loss
            if (
                int(run.epoch(step)) == int(run.epoch(step + 1))
                and step + 1 < run.total_steps
            ):
                continue
            if not loss.isfinite():
                raise UserError(
                    f"the loss is no number at step {step}: set a lower optim.lr"
                )
            if run.val is not None:
                logits = outputs(average, average, run.val, run.preprocess)
                scores.append(
                    float((logits.argmax(dim=1).numpy() == run.val.labels).mean())
                )
            if not scores or scores[-1] == max(scores):
                kept = copy.deepcopy(average)
            if (
                scores
                and len(scores) - scores.index(max(scores)) > self.n_iter_no_change
            ):
                break
        return kept

    def _probe(self, run: Run) -> IsotropicMlp:
        """The network with a head that logistic regression has learnt from the pooled
        features of all images.
        """
        model = run.model
        model.reset_classifier(0)
        x_NC = outputs(model, model, run.source.train, run.preprocess).double().numpy()
        labels = run.source.train.labels
        fitted = fit_logistic(x_NC, labels, strength=1.0, most_steps=1000)
        model.reset_classifier(len(fitted.classes))
        weight = torch.tensor(fitted.weight)
        bias = torch.tensor(fitted.bias)
        model.head.load_state_dict({"weight": weight, "bias": bias})
        return model


def _rows(X: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of an image, () if X has rows already; the rows."""
    X = np.asarray(X) if isinstance(X, (list, tuple)) else X
    return (
        (X.shape[1:], np.asarray(X).reshape(len(X), -1))
        if getattr(X, "ndim", 2) > 2
        else ((), X)
    )
