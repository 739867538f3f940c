"""Run an export on a file of images, in its own runtime and a new process.

`python -P reload.py TARGET EXPORT IMAGES.npy ANSWERS.npz` imports nothing of this
package, so what it reads must be in the export itself. It writes `logits` (N, K), `ms`
for an image in batches of 1 and 8, `runtime` with its version, and `about`, the JSON
that the export carries ("" if its kind cannot). The environment variable
OMP_NUM_THREADS says how many threads the runtime may use.
"""

from __future__ import annotations

import base64
import gzip
import importlib.metadata
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
ExportFn = Callable[[Array], Array]
"""Images as the export takes them -> logits (N, K)."""

# The name of the description, in exports that hold metadata by name.
KEY = "mlp_mixer"

_BATCH = 8
# Calls that are timed for each size of a batch; the first warms up and is not counted.
_CALLS = 10


class Reloaded(NamedTuple):
    """An export that was read back.

    Attributes:
        run: The call that answers.
        about: The JSON that the export carries; "" if its kind cannot.
        package: The package that runs it.
    """

    run: ExportFn
    about: str
    package: str


def answer(run: ExportFn, images: Array) -> dict[str, Any]:
    """Run an export on images, and time it.

    The images come as one, then eight at a time, then what is left: an export must
    take any number.

    Args:
        run: The export.
        images: (N, ...), as it takes them.

    Returns:
        `logits` (N, K), and `ms`: median milliseconds for an image in batches of 1 and
        of 8.
    """
    parts = [images[:1]]
    for start in range(1, len(images), _BATCH):
        parts.append(images[start : start + _BATCH])
    logits = np.concatenate([run(part) for part in parts])
    ms = [_milliseconds(run, images, size) for size in (1, _BATCH)]
    return {"logits": logits, "ms": ms}


def _milliseconds(run: ExportFn, images: Array, size: int) -> float:
    """Return the median time for an image in batches of a size."""
    batch = np.resize(images, (size, *images.shape[1:]))
    times = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        run(batch)
        times.append(1000 * (time.perf_counter() - start) / size)
    return statistics.median(times[1:])


def of_torch(model: Callable[[Any], Any]) -> ExportFn:
    """Return a torch model as a call for arrays.

    Args:
        model: Maps tensors to logits.
    """
    import torch

    @torch.inference_mode()
    def run(images: Array) -> Array:
        return model(torch.from_numpy(images)).numpy()

    return run


# Each reader imports its own runtime and no other: a process needs one of them, and the
# others may not be installed.


def _session(graph: str | bytes, threads: int) -> Any:
    """Open the path or the bytes of an ONNX graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"]
    )


def _of_session(session: Any) -> ExportFn:
    return lambda images: session.run(None, {"image": images})[0]


def _onnx(path: str, threads: int) -> Reloaded:
    session = _session(path, threads)
    about = session.get_modelmeta().custom_metadata_map[KEY]
    return Reloaded(_of_session(session), about, "onnxruntime")


def _web(path: str, threads: int) -> Reloaded:
    # Not in a browser: what a page holds is read back, and run by the same project.
    page = Path(path, "index.html").read_text(encoding="utf-8")
    held = dict(re.findall(r'<script type="[^"]*" id="(\w+)">([^<]*)</script>', page))
    session = _session(gzip.decompress(base64.b64decode(held["model"])), threads)
    return Reloaded(_of_session(session), held["about"], "onnxruntime")


def _triton(path: str, threads: int) -> Reloaded:
    return _onnx(os.path.join(path, "1", "model.onnx"), threads)  # noqa: PTH118


def _openvino(path: str, threads: int) -> Reloaded:
    import openvino

    graph = openvino.Core().read_model(path)
    about = graph.get_rt_info(KEY).astype(str)
    # By itself it computes in bf16 where the processor can.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = openvino.compile_model(graph, "CPU", hints).create_infer_request()
    return Reloaded(lambda x: request.infer({0: x})[0].copy(), about, "openvino")


def _torch_export(path: str, threads: int) -> Reloaded:
    import torch

    # torch fills in the values of the names it is given.
    extra = {f"{KEY}.json": ""}
    model = torch.export.load(path, extra_files=extra).module()
    return Reloaded(of_torch(model), extra[f"{KEY}.json"], "torch")


def _aoti(path: str, threads: int) -> Reloaded:
    import torch

    model = torch._inductor.aoti_load_package(path)
    return Reloaded(of_torch(model), model.get_metadata()[KEY], "torch")


def _executorch(path: str, threads: int) -> Reloaded:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return Reloaded(of_torch(lambda x: method.execute([x])[0]), "", "executorch")


def _timm(path: str, threads: int) -> Reloaded:
    import timm

    model: Any = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    about = {"labels": model.pretrained_cfg.get("label_names")}
    return Reloaded(of_torch(model), json.dumps(about), "timm")


def _hf(path: str, threads: int) -> Reloaded:
    import transformers

    kind = transformers.AutoModelForImageClassification
    model = kind.from_pretrained(path).eval()
    about = {"labels": list(model.config.id2label.values())}
    run = of_torch(lambda x: model(x).logits)
    return Reloaded(run, json.dumps(about), "transformers")


READERS: dict[str, Callable[[str, int], Reloaded]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torch-export": _torch_export,
    "aoti": _aoti,
    "executorch": _executorch,
    "timm": _timm,
    "hf": _hf,
    "web": _web,
    "triton": _triton,
}


def main() -> None:
    """Read an export back, run it, and write its answers."""
    target, export, images, answers = sys.argv[1:]
    threads = int(os.environ["OMP_NUM_THREADS"])
    loaded = READERS[target](export, threads)
    runtime = f"{loaded.package} {importlib.metadata.version(loaded.package)}"
    found = answer(loaded.run, np.load(images))
    np.savez(answers, **found, runtime=runtime, about=loaded.about)


if __name__ == "__main__":
    main()
