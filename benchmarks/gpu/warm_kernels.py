"""Compile the kernels that the benches launch, one shape in each of many processes.

python benchmarks/gpu/warm_kernels.py DEVICE

Triton keeps what it has compiled in a folder, by the source and by all that a launch is
specialised for. So each process launches what a bench launches: the same shapes, dtypes
and batch, in a network of one block.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from mlp_mixer.kernels import fuse, why_not
from mlp_mixer.models import create_model

# The slowest to compile first.
LAUNCHES = (
    ("mixer_b16", "train", 128),
    ("mixer_s16", "train", 128),
    ("mixer_b16", "infer", 256),
    ("mixer_l16", "infer", 256),
    ("mixer_s16", "infer", 256),
    ("mixer_s32", "infer", 256),
)


def launch(model: str, task: str, batch: int, device: str) -> dict[str, Any]:
    """Launch the kernels once, as `mlp-mixer bench --dtype bf16` does.

    Args:
        model: The architecture.
        task: "infer" or "train".
        batch: Images.
        device: Where.

    Returns:
        What was launched, and the seconds it took.
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    network = create_model(model, num_blocks=1, gelu="erf").to(device)
    place = torch.device(device)
    plain = why_not(network, place)
    if not plain:
        network = fuse(network)
    side = network.config.image_size
    images = torch.randn(batch, 3, *side, device=device)
    if task == "train":
        with torch.autocast(place.type, torch.bfloat16):
            loss = network.train()(images).float().sum()
        loss.backward()  # type: ignore[no-untyped-call]
    else:
        with torch.inference_mode():
            network.eval().bfloat16()(images.bfloat16())
    if place.type == "cuda":
        torch.cuda.synchronize()
    seconds = round(time.perf_counter() - start, 1)
    return {"warm": f"{model} {task} {batch}", "plain": plain, "seconds": seconds}


def main() -> None:
    """Launch all, and print a row for each."""
    device = sys.argv[1]
    launches = LAUNCHES
    processes = min(len(LAUNCHES), max(1, (os.cpu_count() or 1) - 4))
    if device == "cpu":
        # A rehearsal: nothing is compiled, and one is enough.
        launches = (("mixer_pico2", "train", 2),)
        processes = 1
    # A process that was forked could not use the GPU.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs = [pool.submit(launch, *one, device) for one in launches]
        for one, job in zip(launches, jobs, strict=True):
            # One that does not compile is a row; the bench will say it too.
            if error := job.exception():
                row = {"warm": " ".join(map(str, one)), "error": str(error)[:200]}
            else:
                row = job.result()
            print("ROW", json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
