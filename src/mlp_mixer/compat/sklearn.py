"""A scikit-learn classifier of images in arrays.

Inside are this package's training step and checkpoints.
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
from ..evaluation.logistic import fit_logistic
from ..models import IsotropicMlp
from ..recipes import get_recipe
from ..recipes.finetune import finetune_auto
from ..training import Run, TrainConfig, prepare
from ..training.optim.build import Ema, build_optimizer
from ..training.step import Stepper
from ..weights import Checkpoint


class MixerClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Learn images (N, H, W[, C]), or rows (N, features) that are flattened ones.

    Values other than uint8 are brought to 0-255 by the range of the training data, and
    rounded.

    Args:
        model: A variant for the depth and widths of a fresh network, whose patches will
            divide the image.
        image_shape: (H, W[, C]) of a row; by default a gray square, or 1 x features
            where they fill no square.
        weights: Instead of a fresh network, what `load` takes; images are scaled to its
            size.
        frozen: Learn only a new head for these weights.
        epochs: By default about 500 steps, or those of `finetune_auto`.
        settings: More for its `TrainConfig`, such as ("optim.lr=1e-3",
            "augment.flip=true", "data.val_fraction=0").
        n_iter_no_change: Epochs without a better one that end the training.
        random_state: A seed, or scikit-learn's generator.
        device: "auto" is a GPU if there is one.

    Attributes:
        checkpoint_: What was learnt, for `save` and `Predictor`.
        classes_: The labels, in the order of the network's answers.
        validation_scores_: The accuracy on validation images after each epoch.
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
        """Learn images and their labels.

        Args:
            X: N images or rows.
            y: N labels of any type.

        Returns:
            Itself.

        Raises:
            UserError: Something does not fit (a ValueError).
        """
        shape, X = _rows(X)
        X, y = validation.validate_data(self, X, y)
        multiclass.check_classification_targets(y)
        self.image_shape_: tuple[int, ...] = self._shape_of_images(shape)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        self.range_ = (0.0, 255.0)
        if X.dtype != np.uint8:
            self.range_ = (float(X.min()), float(X.max()))
        names = [str(name) for name in self.classes_]
        images = ArraySet(self._pixels(X), numbers, names, origin="images")
        self.validation_scores_: list[float] = []
        run = prepare(self._config(images), Dataset("arrays", images))
        # scikit-learn's estimators leave global generators alone.
        with torch.random.fork_rng(devices=[]), cpu_threads(run.config.train.threads):
            network = self._probe(run) if self.frozen else self._learn(run)
        # What is pickled stays on the CPU: it may be opened where no GPU is.
        network = network.eval().cpu()
        self.checkpoint_ = Checkpoint(
            network, run.preprocess, images.classes, run.provenance()
        )
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Args:
            X: N images or rows.

        Returns:
            (N, K) float32, in the order of `classes_`.
        """
        validation.check_is_fitted(self)
        X = validation.validate_data(self, _rows(X)[1], reset=False)
        model = copy.deepcopy(self.checkpoint_.model).to(pick_device(self.device))
        images = ArraySet(self._pixels(X), np.zeros(len(X), int))
        logits = outputs(model, model, images, self.checkpoint_.preprocess)
        return logits.softmax(dim=1).numpy()

    def predict(self, X: Any) -> Any:
        """Return the likeliest class of each image.

        Args:
            X: N images or rows.

        Returns:
            (N,) of `classes_`.
        """
        likeliest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likeliest]

    def _shape_of_images(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (H, W, C) of the images; `shape` is empty if they came as rows."""
        features = self.n_features_in_
        side = math.isqrt(features)
        square = (side, side) if side * side == features else (1, features)
        shape = shape or self.image_shape or square
        if len(shape) not in (2, 3) or math.prod(shape) != features:
            raise UserError(
                f"image_shape is {shape}: expected (H, W) or (H, W, C) of {features} "
                "values in all"
            )
        return (*shape, 1)[:3]

    def _pixels(self, X: np.ndarray) -> np.ndarray:
        low, high = self.range_
        if X.dtype != np.uint8 or self.range_ != (0.0, 255.0):
            # All values equal: the range is 0, and every pixel black.
            factor = 255 / (high - low or 1)
            scaled = (X - low).clip(0, high - low) * factor
            X = np.rint(scaled).astype(np.uint8)
        return X.reshape(-1, *self.image_shape_)

    def _config(self, images: ArraySet) -> TrainConfig:
        height, width, _ = self.image_shape_
        n = len(images)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        epochs = self.epochs
        settings: dict[str, Any] = {
            "data.split_seed": seed,
            "train.seed": seed,
            "train.device": self.device,
        }
        if self.weights is not None:
            small = max(height, width) <= 64
            config = finetune_auto(self.weights, "arrays", n, small=small)
        elif self.frozen:
            raise UserError(
                "frozen=True needs weights to take features from: give weights, or leave "
                "it out"
            )
        else:
            config = get_recipe("digits")
            # At least eight steps an epoch, however few the images.
            batch = min(64, -(-n // 8))
            settings |= self._fresh_network()
            settings |= {"train.batch_size": batch, "schedule.warmup_share": 0.1}
            # Nothing is known of the images: they may be the same only as they are.
            settings |= {"augment.shift": 0, "augment.rotate": 0, "augment.scale": 0}
            epochs = epochs or min(60, max(5, 500 * batch // n))
        if epochs:
            settings["train.epochs"] = epochs
        ours = [f"{name}={value}" for name, value in settings.items()]
        # The caller's come last and win.
        return override(config, [*ours, *self.settings])

    def _fresh_network(self) -> dict[str, Any]:
        """Return the settings of a network that fits the images."""
        height, width, _ = self.image_shape_
        patch = 1
        for side in range(1, math.isqrt(min(height, width)) + 1):
            if height % side == 0 and width % side == 0:
                patch = side
        return {
            "model.name": self.model,
            "model.patch_size": patch,
            "model.image_size": [height, width],
        }

    def _learn(self, run: Run) -> IsotropicMlp:
        """Return the average of the weights as it was after its best epoch.

        Of equals the later epoch counts.
        """
        average = copy.deepcopy(run.model)
        kept = run.model
        scores = self.validation_scores_
        ema = Ema(run.model, average, run.config.train.ema)
        optimizer = build_optimizer(
            run.model, run.config.optim, precision=run.precision
        )
        stepper = Stepper(run, run.model.train(), optimizer, ema)
        for step in range(run.total_steps):
            loss = stepper(run.batches()[step], step).loss
            last_step = step + 1 == run.total_steps
            if int(run.epoch(step)) == int(run.epoch(step + 1)) and not last_step:
                continue
            # An epoch has ended.
            if not loss.isfinite():
                raise UserError(
                    f"the loss is no number at step {step}: set a lower optim.lr"
                )
            if run.val is not None:
                logits = outputs(average, average, run.val, run.preprocess)
                right = logits.argmax(dim=1).numpy() == run.val.labels
                scores.append(float(right.mean()))
            if not scores or scores[-1] == max(scores):
                kept = copy.deepcopy(average)
            if scores:
                since_best = len(scores) - scores.index(max(scores))
                if since_best > self.n_iter_no_change:
                    break
        return kept

    def _probe(self, run: Run) -> IsotropicMlp:
        """Return the network with a head that logistic regression has learnt.

        It learns from the pooled features of all images.
        """
        model = run.model
        # Without a head the network answers with its features.
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
    """Return the shape of an image, () if X has rows already; and the rows."""
    if isinstance(X, (list, tuple)):
        X = np.asarray(X)
    if getattr(X, "ndim", 2) <= 2:
        return (), X
    return X.shape[1:], np.asarray(X).reshape(len(X), -1)
