"""From the command to the answer: `mlp-mixer predict` of one picture, and the least
that does the same with timm.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from ..models import create_model
from ..weights import save
from ..weights.lineages.timm_names import entry_point
from ..weights.lineages.transforms import eval_preprocess

_TIMM = """
import sys, timm, torch
from PIL import Image
from safetensors.torch import load_file
name, weights, picture = sys.argv[1:]
model = timm.create_model(name).eval()
model.load_state_dict(load_file(weights))
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
with torch.inference_mode():
    scores = model(transform(Image.open(picture).convert("RGB"))[None]).softmax(1)[0]
print("class", scores.argmax().item())
"""


@contextlib.contextmanager
def start_commands(name: str) -> Iterator[dict[str, Callable[[], str]]]:
    """Calls that start a process each and wait for its answer; all have been run once,
    and name the same class.
    """
    torch.manual_seed(0)
    model = create_model(name, gelu="erf").eval()
    torch.nn.init.normal_(model.head.weight, std=0.05)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/model.safetensors"
        picture = f"{folder}/picture.png"
        save(
            weights, model, preprocess=eval_preprocess("timm", model.config.image_size)
        )
        noise = torch.randint(0, 256, (8, 10, 3), dtype=torch.uint8).numpy()
        Image.fromarray(noise).resize((500, 400)).save(picture)
        commands = {
            "ours": ["-m", "mlp_mixer", "predict", weights, picture, "--device", "cpu"]
        }
        found = entry_point(model.config)
        if importlib.util.find_spec("timm") and found and not found.needs_register:
            commands["timm"] = ["-c", _TIMM, found.name, weights, picture]
        calls = {
            who: functools.partial(_output, [sys.executable, *command])
            for who, command in commands.items()
        }
        answers = {who: call() for who, call in calls.items()}
        label = answers.get("timm", "").strip()
        assert label in answers["ours"], (
            f"timm's answer is {label!r}, ours\n{answers['ours']}"
        )
        yield dict(calls)


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path.home()
    ).stdout
