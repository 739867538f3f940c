"""`mlp-mixer serve`: a checkpoint as an HTTP API and a page."""

from __future__ import annotations

from typing import Annotated

import typer

from .complete import WeightsOrBundled
from .predict import introduce_box


def serve(
    checkpoint: WeightsOrBundled = None,
    host: Annotated[
        str,
        typer.Option(
            help="Where to listen; 0.0.0.0 for all who can reach this machine."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="What computes: torch, plain, onnxruntime, openvino or auto."
        ),
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures computed at once.")
    ] = 32,
    max_mib: Annotated[float, typer.Option(min=0.001, help="Of one request.")] = 20,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=64, help="Of one picture.")
    ] = 50,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, help="Seconds for a request to come, and for its answer."
        ),
    ] = 30,
) -> int:
    """Answer POST /predict with what is on a picture, and show a page at /. Ctrl-C:
    finish, then stop.
    """
    import torch

    from ..devices import pick_device
    from ..errors import UserError
    from ..inference.predictor import Predictor
    from ..runtime.engines import fastest
    from ..training.stop import StopRequest
    from ..weights import load
    from ..weights.catalog import BUNDLED

    try:
        from ..serve import Limits, create_app, server
        from ..serve.limits import listen
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; pip install 'mlp-mixer[serve]'"
        ) from error

    limits = Limits(
        max_bytes=int(max_mib * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        seconds=timeout,
        batch=batch_size,
    )
    loaded = load(BUNDLED if checkpoint is None else checkpoint)
    where = str(pick_device(device))
    if engine == "auto":  # tried now, and not when the first clients wait
        config = loaded.model.config
        images = torch.zeros(8, config.in_channels, *config.image_size, device=where)
        engine = fastest(loaded.model.to(where).eval(), images)[0]
    predictor = Predictor(loaded, device=where, engine=engine)
    app = create_app(predictor, limits)
    if checkpoint is None:
        introduce_box(loaded.labels)
    with listen(host, port) as listener, StopRequest() as stop:
        name = f"[{host}]" if ":" in host else host
        what = BUNDLED.stem if checkpoint is None else checkpoint
        print(
            f"serving {what} at http://{name}:{listener.getsockname()[1]}/ (Ctrl-C stops)",
            flush=True,
        )
        if host not in ("127.0.0.1", "::1", "localhost"):
            print(
                "anyone who can reach this address may use it: put what asks for a password before it",
                flush=True,
            )
        server(app, limits).run(sockets=[listener])
    return 128 + stop.signal_number if stop.signal_number else 0
