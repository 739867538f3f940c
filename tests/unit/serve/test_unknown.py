"""A server with a lowest score: no answer below it, and still an explanation."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from mlp_mixer.inference import Predictor
from mlp_mixer.serve import Limits, create_app


def test_low_scores_are_unknown(predictor: Predictor, client: TestClient) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    unsure = Predictor(predictor.checkpoint, device="cpu", engine="torch", min_score=1)
    with TestClient(create_app(unsure, Limits(max_bytes=2**20))) as strict:
        answers = []
        for one in (client, strict):
            headers = {"content-type": "image/png"}
            address = "/predict?explain=true"
            response = one.post(address, content=file.getvalue(), headers=headers)
            answers += response.json()["predictions"]
        assert strict.get("/model").json()["min_score"] == 1
    assert client.get("/model").json()["min_score"] is None
    sure, unknown = answers
    assert (unknown["pred_label"], unknown["pred_class"]) == (None, "unknown")
    assert sure["pred_label"] == sure["top"][0]["label"]
    # What it may be all the same is told and explained as before.
    for key in ("pred_score", "top", "explanation"):
        assert unknown[key] == sure[key]
