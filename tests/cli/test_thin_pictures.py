"""A long thin picture costs what its crop costs, from the command line to the answer.

Its side is scaled to that of the network, and the other side with it: of 30000 x 10
pixels that would be hundreds of megabytes, all but a part in 3,000 for nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import mlp_mixer as mm

pytest.importorskip("resource", reason="Windows does not count a process's memory")

SIZES = [(30_000, 10), (10, 30_000), (3_000, 1)]
MOST = 150 * 2**20  # bytes above what an ordinary picture takes

# The most memory of a process so far, after each of the pictures.
PROGRAM = """
import json, resource, sys
from mlp_mixer.cli import run

unit = 1 if sys.platform == "darwin" else 1024
found = []
for picture in sys.argv[2:]:
    status = run(["predict", sys.argv[1], picture, "--json", "--device", "cpu"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found.append((status, peak))
print(json.dumps(found), file=sys.stderr)
"""


def test_predict_takes_no_more_memory_for_thin_pictures(tmp_path: Path) -> None:
    model = mm.create_model(
        "mixer_pico2", image_size=128, patch_size=16, num_blocks=1, num_classes=3
    )
    mm.save(tmp_path / "m.safetensors", model)
    pictures = []
    for number, size in enumerate([(640, 480), *SIZES]):
        pictures.append(tmp_path / f"{number}.png")
        Image.new("RGB", size, (number, 0, 0)).save(pictures[-1])
    command = [sys.executable, "-c", PROGRAM, tmp_path / "m.safetensors", *pictures]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (status, ordinary), *thin = json.loads(done.stderr.splitlines()[-1])
    assert status == 0
    for (status, peak), size in zip(thin, SIZES, strict=True):
        assert status == 0
        assert peak - ordinary < MOST, size
