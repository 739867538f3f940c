"""A Mixer in Lightning: `python examples/lightning_module.py`, then `mlp-mixer predict
lightning.safetensors PICTURE`.

What is saved carries the preprocessing and the class names, so that nothing of
Lightning is needed to use it.
"""

from __future__ import annotations

import sys

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import mlp_mixer
from mlp_mixer.data import ImageSet

PREPROCESS = mlp_mixer.Preprocess(
    image_size=(8, 8), channels=1, crop_pct=1.0, mean=(0.305,), std=(0.376,)
)


class Mixer(lightning.LightningModule):
    """A Mixer with cross-entropy, AdamW and one cycle of the learning rate."""

    def __init__(self, classes: int, lr: float = 6e-3) -> None:
        super().__init__()
        self.model = mlp_mixer.create_model(
            "mixer_pico2", num_classes=classes, in_channels=1, gelu="erf"
        )
        self.lr = lr

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def test_step(self, batch: list[Tensor]) -> None:
        images, labels = batch
        self.log(
            "accuracy", (self.model(images).argmax(dim=1) == labels).float().mean()
        )

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.1)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def loader(
    images: ImageSet, *, shuffle: bool = False
) -> DataLoader[tuple[Tensor, ...]]:
    """The images as the network takes them, in batches of 64."""
    pixels = torch.stack(
        [PREPROCESS(images.image(index)) for index in range(len(images))]
    )
    return DataLoader(
        TensorDataset(pixels, torch.from_numpy(images.labels)),
        batch_size=64,
        shuffle=shuffle,
    )


def main(out: str = "lightning.safetensors", epochs: int = 15) -> float:
    """Train on scikit-learn's digits, write `out`, and give the accuracy on the
    held-out ones.
    """
    lightning.seed_everything(0, verbose=False)
    digits = mlp_mixer.open_dataset("digits")
    module = Mixer(len(digits.train.classes))
    quiet = dict.fromkeys(
        (
            "logger",
            "enable_checkpointing",
            "enable_progress_bar",
            "enable_model_summary",
        ),
        False,
    )
    trainer = lightning.Trainer(max_epochs=epochs, **quiet)
    trainer.fit(module, loader(digits.train, shuffle=True))
    (measured,) = trainer.test(module, loader(digits.test), verbose=False)
    mlp_mixer.save(
        out, module.model, preprocess=PREPROCESS, labels=digits.train.classes
    )
    return measured["accuracy"]


if __name__ == "__main__":
    print(f"accuracy on held-out digits: {main(*sys.argv[1:2]):.3f}")
