"""How checkpoint_v1.safetensors was made, once, with format version 1. It must stay
readable; never make it again.

python tests/data/make_v1.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mlp_mixer import Preprocess, create_model, save

HERE = Path(__file__).parent
CHANNELS = 2
SIZE = (4, 6)

if __name__ == "__main__":
    torch.manual_seed(1)
    model = create_model(
        "mixer_pico2", num_classes=3, image_size=SIZE, in_channels=CHANNELS, num_blocks=1,
        hidden_dim=4, tokens_mlp_dim=3, channels_mlp_dim=5, gelu="erf", norm_eps=1e-5, drop_path=0.1,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    preprocess = Preprocess(
        SIZE,
        channels=CHANNELS,
        resize="resize",
        crop_pct=0.9,
        mean=(0.1, 0.2),
        std=(0.3, 0.4),
    )
    provenance = {"recipe": "none", "note": "tiny, random, for ever"}
    path = HERE / "checkpoint_v1.safetensors"
    save(
        path,
        model,
        preprocess=preprocess,
        labels=["a", "b", "ü"],
        provenance=provenance,
    )
    image = (
        torch.arange(2 * CHANNELS * SIZE[0] * SIZE[1])
        .reshape(2, CHANNELS, *SIZE)
        .to(torch.uint8)
    )
    logits = model(preprocess.normalize(image)).detach()
    (HERE / "checkpoint_v1.json").write_text(
        json.dumps({"logits": logits.double().tolist()}) + "\n"
    )
