"""Time from the command to the answer.

`mlp-mixer predict` of one picture, and the shortest program that does the same with
timm. Most of it is the import of torch.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import torch
from PIL import Image

from ..models import IsotropicMlp, create_model
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
    """Prepare the commands on a checkpoint and a picture, and check them.

    Args:
        name: The architecture; its weights are random.

    Yields:
        Calls by competitor that start a process each, and return what it printed. All
        have run once, and name the same class.
    """
    torch.manual_seed(0)
    model = create_model(name, gelu="erf").eval()
    # A fresh head is zero, and all classes would score alike.
    torch.nn.init.normal_(model.head.weight, std=0.05)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/model.safetensors"
        picture = f"{folder}/picture.png"
        preprocess = eval_preprocess("timm", model.config.image_size)
        save(weights, model, preprocess=preprocess)
        noise = torch.randint(0, 256, (8, 10, 3), dtype=torch.uint8).numpy()
        Image.fromarray(noise).resize((500, 400)).save(picture)
        calls = {}
        for competitor, arguments in _arguments(model, weights, picture).items():
            calls[competitor] = functools.partial(_output, arguments)
        answers = {competitor: call() for competitor, call in calls.items()}
        label = answers.get("timm", "").strip()
        assert label in answers["ours"], (
            f"timm's answer is {label!r}, ours\n{answers['ours']}"
        )
        yield dict(calls)


def _arguments(model: IsotropicMlp, weights: str, picture: str) -> dict[str, list[str]]:
    """Return the arguments of Python by competitor."""
    ours = ["-m", "mlp_mixer", "predict", weights, picture, "--device", "cpu"]
    arguments = {"ours": ours}
    entry = entry_point(model.config)
    if importlib.util.find_spec("timm") and entry and not entry.needs_register:
        arguments["timm"] = ["-c", _TIMM, entry.name, weights, picture]
    return arguments


def _output(arguments: list[str]) -> str:
    # Elsewhere, so that the folder of the sources cannot hide what is installed.
    process = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    return process.stdout
