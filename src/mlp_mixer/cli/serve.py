"""`mlp-mixer serve`: a checkpoint as an HTTP API and a page."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from .arguments import (
    BatchSize,
    Device,
    Engine,
    Fast,
    Key,
    Labels,
    MinScore,
    PrecisionName,
    WeightsOrBundled,
    introduce_bundled,
    or_bundled,
    with_key,
)


def serve(
    checkpoint: WeightsOrBundled = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; 0.0.0.0 for all who can reach this machine."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    key: Key = None,
    device: Device = "auto",
    engine: Engine = "auto",
    fast: Fast = False,
    precision: PrecisionName = "auto",
    batch_size: BatchSize = 32,
    max_mib: Annotated[
        float,
        typer.Option(min=0.001, max=65_536, help="The size of a request at most."),
    ] = 20,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=64, help="The size of a picture at most.")
    ] = 50,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=86_400,
            help="Seconds for a request to arrive, and for its answer.",
        ),
    ] = 30,
    formats: Annotated[
        str,
        typer.Option(
            help="Formats that are decoded, such as jpeg,png,tiff; all for all that can "
            "be. The default is what browsers send."
        ),
    ] = "jpeg,png,webp,gif,bmp",
    allowed_hosts: Annotated[
        str,
        typer.Option(
            help="Names that the server answers to, besides the address it listens on "
            "and localhost: such as pictures.example.org,*.internal; * for any.",
            show_default=False,
        ),
    ] = "",
    min_score: MinScore = None,
    labels: Labels = None,
) -> int:
    """Answer POST /predict with what is in a picture, and show a page at /.

    Ctrl-C answers the waiting requests, then stops.
    """
    import torch

    from ..devices import pick_device
    from ..errors import UserError
    from ..inference import Predictor
    from ..runtime import admitted_tolerance, fastest
    from ..training.stop import StopRequest

    # The server's packages are optional.
    try:
        from ..serve import (
            Limits,
            create_app,
            default_hosts,
            formats_of,
            listen,
            server,
        )
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; pip install fastapi uvicorn "
            "python-multipart prometheus-client"
        ) from error

    limits = Limits(
        max_bytes=int(max_mib * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        seconds=timeout,
        batch=batch_size,
        formats=formats_of(formats),
    )
    names = allowed_hosts.replace(",", " ").split()
    hosts = (*default_hosts(host), *names)
    source, name = or_bundled(checkpoint)
    source = with_key(source, key)
    predictor = Predictor(
        source,
        device=device,
        engine=engine,
        tolerance=admitted_tolerance(fast, precision, pick_device(device)),
        precision=precision,
        min_score=min_score,
        labels=labels,
    )
    if engine == "auto" and predictor.engine.is_exact:
        # Engines are tried now: the first clients should not wait for that. What is not
        # exact is tried on the clients' own pictures instead.
        config = predictor.model.config
        shape = (8, config.in_channels, *config.image_size)
        images = torch.zeros(shape, device=predictor.device)
        best = fastest(predictor.model, images).way.engine
        predictor = Predictor(
            predictor.checkpoint,
            device=device,
            engine=best,
            min_score=predictor.min_score,
        )
    app = create_app(predictor, limits, hosts)
    if checkpoint is None:
        introduce_bundled(predictor.labels)
    with listen(host, port) as listener, StopRequest() as stop:
        # An IPv6 address has colons of its own.
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        print(f"serving {name} at {address} (Ctrl-C stops)", flush=True)
        # A loopback address is reached from this machine only.
        if host not in ("127.0.0.1", "::1", "localhost"):
            print(
                "no authentication: put a reverse proxy with a password in front",
                flush=True,
            )
        running = server(app, limits, lambda: stop.signal_number)
        # Python searches all objects for garbage only when a quarter of them are new.
        # Of torch's half a million that is long after many requests, and takes long.
        gc.freeze()
        gc.collect()
        try:
            running.run(sockets=[listener])
        finally:
            gc.unfreeze()
    # As a shell says it: 130 after Ctrl-C, 143 after SIGTERM.
    return 128 + stop.signal_number if stop.signal_number else 0
