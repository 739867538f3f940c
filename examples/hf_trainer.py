"""A Mixer in transformers' Trainer: `python examples/hf_trainer.py`, then `mlp-mixer
predict hf.safetensors PICTURE`.

The Trainer wants a model that answers with a dictionary, and items that are
dictionaries; the rest is as everywhere.
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

import mlp_mixer
from mlp_mixer.data import ImageSet

PREPROCESS = mlp_mixer.Preprocess(
    image_size=(8, 8), channels=1, crop_pct=1.0, mean=(0.305,), std=(0.376,)
)


class MixerWithLoss(nn.Module):
    """What the Trainer calls: pictures and labels in, loss and logits out."""

    def __init__(self, model: mlp_mixer.MlpMixer) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Pictures(Dataset[dict[str, Tensor]]):
    """Our images as the Trainer collates them."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, object]:
        return {
            "pixel_values": PREPROCESS(self.images.image(index)),
            "labels": int(self.images.labels[index]),
        }


def accuracy(answers: EvalPrediction) -> dict[str, float]:
    return {
        "accuracy": float(
            np.mean(answers.predictions.argmax(axis=1) == answers.label_ids)
        )
    }


def main(out: str = "hf.safetensors", epochs: int = 15) -> float:
    """Train on scikit-learn's digits, write `out`, and give the accuracy on the
    held-out ones.
    """
    digits = mlp_mixer.open_dataset("digits")
    model = mlp_mixer.create_model(
        "mixer_pico2", num_classes=len(digits.train.classes), in_channels=1, gelu="erf"
    )
    sizes = {
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 256,
        "num_train_epochs": epochs,
    }
    optim = {
        "learning_rate": 6e-3,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
    }
    quiet = {
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **sizes, **optim, **quiet)
        wrapped = MixerWithLoss(model)
        trainer = Trainer(
            wrapped,
            arguments,
            train_dataset=Pictures(digits.train),
            compute_metrics=accuracy,
        )
        trainer.train()
        measured = trainer.evaluate(Pictures(digits.test))
    mlp_mixer.save(out, model, preprocess=PREPROCESS, labels=digits.train.classes)
    return measured["eval_accuracy"]


if __name__ == "__main__":
    print(f"accuracy on held-out digits: {main(*sys.argv[1:2]):.3f}")
