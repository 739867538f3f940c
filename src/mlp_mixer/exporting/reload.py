"""An export answers for a file of images in its own runtime: a program that imports
nothing of ours, for a new process.

`python -P reload.py TARGET EXPORT IMAGES.npy ANSWERS.npz` writes `logits` (N, K), `ms`
per image in batches of 1 and 8, `runtime` with its version, and `about`, the JSON that
the export carries ("" if its kind cannot); see OMP_NUM_THREADS.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
ExportFn = Callable[[Array], Array]  # images to logits
KEY = "mlp_mixer"  # of the description, where there is metadata by name


def answer(run: ExportFn, images: Array) -> dict[str, Any]:
    """Logits of one image, then of eight at a time, then of the rest (any number must
    do), and median times.
    """
    parts = [
        images[:1],
        *(images[start : start + 8] for start in range(1, len(images), 8)),
    ]
    logits = np.concatenate([run(part) for part in parts])
    ms = []
    for size in (1, 8):
        batch = np.resize(images, (size, *images.shape[1:]))
        times = []
        for _ in range(10):
            start = time.perf_counter()
            run(batch)
            times.append(1000 * (time.perf_counter() - start) / size)
        ms.append(statistics.median(times[1:]))
    return {"logits": logits, "ms": ms}


def of_torch(model: Callable[[Any], Any]) -> ExportFn:
    """A torch model, of arrays."""
    import torch

    return torch.inference_mode()(lambda x: model(torch.from_numpy(x)).numpy())


def read(target: str, path: str, threads: int) -> tuple[ExportFn, str, str]:
    """The export behind one call, the description inside, and the package that runs it;
    each imports its own alone.
    """
    if target == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        about = session.get_modelmeta().custom_metadata_map[KEY]
        return lambda x: session.run(None, {"image": x})[0], about, "onnxruntime"
    if target == "openvino":
        import openvino

        graph = openvino.Core().read_model(path)
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        request = openvino.compile_model(graph, "CPU", hints).create_infer_request()
        return (
            lambda x: request.infer({0: x})[0].copy(),
            graph.get_rt_info(KEY).astype(str),
            target,
        )
    if target == "executorch":
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
        return of_torch(lambda x: method.execute([x])[0]), "", target
    if target == "hf":
        import transformers

        wrapped = transformers.AutoModelForImageClassification.from_pretrained(
            path
        ).eval()
        about = json.dumps({"labels": list(wrapped.config.id2label.values())})
        return of_torch(lambda x: wrapped(x).logits), about, "transformers"
    if target == "timm":
        import timm

        model: Any = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        return (
            of_torch(model),
            json.dumps({"labels": model.pretrained_cfg.get("label_names")}),
            target,
        )
    import torch

    if target == "aoti":
        model = torch._inductor.aoti_load_package(path)
        return of_torch(model), model.get_metadata()[KEY], "torch"
    extra = {f"{KEY}.json": ""}
    return (
        of_torch(torch.export.load(path, extra_files=extra).module()),
        extra[f"{KEY}.json"],
        "torch",
    )


if __name__ == "__main__":
    run, about, package = read(
        sys.argv[1], sys.argv[2], int(os.environ["OMP_NUM_THREADS"])
    )
    runtime = f"{package} {importlib.metadata.version(package)}"
    np.savez(
        sys.argv[4], **answer(run, np.load(sys.argv[3])), runtime=runtime, about=about
    )
