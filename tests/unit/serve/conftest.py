"""A tiny model to serve, an application around it, and the same behind a socket."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from mlp_mixer.inference import Predictor
from mlp_mixer.models import create_model
from mlp_mixer.serve import Limits, create_app, listen, server
from mlp_mixer.weights import Checkpoint
from mlp_mixer.weights.lineages.transforms import eval_preprocess


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    torch.manual_seed(1)
    model = create_model("mixer_nano4", num_blocks=2, hidden_dim=32, num_classes=6)
    # Weights of this size make the answers differ from picture to picture.
    torch.nn.init.normal_(model.head.weight, std=2)
    preprocess = eval_preprocess("paper", model.config.image_size, 3)
    checkpoint = Checkpoint(model.eval(), preprocess, tuple("abcdef"))
    return Predictor(checkpoint, device="cpu", engine="torch")


@pytest.fixture(scope="session")
def client(predictor: Predictor) -> Iterator[TestClient]:
    app = create_app(predictor, Limits(max_bytes=2**20))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def serving(predictor: Predictor) -> Iterator[Callable[..., int]]:
    """Starts servers with these limits, behind a port of this machine."""
    with contextlib.ExitStack() as stack:

        def start(**bounds: Any) -> int:
            limits = Limits(**bounds)
            listener = stack.enter_context(listen("127.0.0.1", 0))
            running = server(create_app(predictor, limits), limits)
            options = {"sockets": [listener]}
            thread = threading.Thread(target=running.run, kwargs=options)
            thread.start()

            def stop() -> None:
                running.should_exit = True
                thread.join()

            stack.callback(stop)
            while not running.started:
                time.sleep(0.01)
            port: int = listener.getsockname()[1]
            return port

        yield start
