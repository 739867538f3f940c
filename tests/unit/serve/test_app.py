"""The HTTP API: the same answers whatever the form of the request, and the right status
for every fault.
"""

from __future__ import annotations

import base64
import concurrent.futures
import csv
import io
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from mlp_mixer.errors import UserError
from mlp_mixer.inference.predictor import Predictor
from mlp_mixer.models import create_model
from mlp_mixer.serve import Limits, create_app
from mlp_mixer.weights import Checkpoint

FUZZED = int(os.environ.get("MLP_MIXER_FUZZED_REQUESTS", "300"))
REFUSALS = {400, 404, 405, 408, 413, 415, 422}


def picture(
    seed: int = 0, size: tuple[int, int] = (40, 30), form: str = "PNG"
) -> bytes:
    pixels = np.random.default_rng(seed).integers(
        0, 255, (*reversed(size), 3), np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def post(
    client: TestClient,
    data: bytes,
    query: str = "",
    kind: str = "application/octet-stream",
) -> Any:
    return client.post(f"/predict{query}", content=data, headers={"content-type": kind})


def same(
    answer: dict[str, Any],
    predictor: Predictor,
    data: bytes,
    name: str = "picture",
    top: int = 5,
) -> bool:
    expected = predictor(data).to_dict() | {"path": name}
    expected["top"] = [
        x | {"score": pytest.approx(x["score"], abs=1e-5)}
        for x in expected["top"][:top]
    ]
    return answer == expected | {
        "pred_score": pytest.approx(expected["pred_score"], abs=1e-5)
    }


def test_every_form_of_a_request_gives_what_the_predictor_says(
    client: TestClient, predictor: Predictor
) -> None:
    data = picture(1)
    other = picture(2, form="JPEG")
    encoded = {"image": base64.b64encode(data).decode(), "top": 2}
    for response, top in (
        (post(client, data), 5),
        (post(client, data, "?top=3", "image/png"), 3),
        (client.post("/predict", json=encoded), 2),
    ):
        assert response.status_code == 200
        [answer] = response.json()["predictions"]
        assert same(answer, predictor, data, top=top)
        assert response.json()["milliseconds"] > 0
    files = [
        ("file", ("a.png", data)),
        ("file", ("ü.jpg", other)),
        ("other", ("c.png", b"ignored")),
    ]
    first, second = client.post("/predict", files=files).json()["predictions"]
    assert same(first, predictor, data, "a.png")
    assert same(second, predictor, other, "ü.jpg")


def test_one_bad_picture_of_several_does_not_spoil_the_others(
    client: TestClient, predictor: Predictor
) -> None:
    files = [("file", ("bad.png", b"nothing")), ("file", ("good.png", picture()))]
    bad, good = client.post("/predict", files=files).json()["predictions"]
    assert bad["path"] == "bad.png"
    assert "not an image" in bad["error"]
    assert same(good, predictor, picture(), "good.png")


def bomb() -> bytes:
    """A PNG of 400 bytes that claims 60 million pixels."""
    data = bytearray(picture())
    data[16:24] = (10_000).to_bytes(4, "big") + (6_000).to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({"content": b""}, 422, "empty"),
        ({"content": b"<html>"}, 415, "not an image in a known format"),
        ({"content": picture(form="JPEG")[:-300]}, 422, "cut short"),
        ({"content": bomb()}, 413, "10000 x 6000 pixels, at most 50 million"),
        ({"content": bytes(2**20 + 1)}, 413, "at most 1 MiB"),
        ({"content": bytes(9 * 2**20)}, 413, "at most 1 MiB"),
        ({"content": (bytes(2**18) for _ in range(6))}, 413, "at most 1 MiB"),
        (
            {"content": picture(), "headers": {"content-type": "text/html"}},
            415,
            "cannot read 'text/html'",
        ),
        (
            {"content": b"{", "headers": {"content-type": "application/json"}},
            422,
            "Invalid JSON",
        ),
        ({"json": {"image": "?"}}, 422, "no base64"),
        ({"json": {"image": "x", "top": 0}}, 422, "top is wrong"),
        ({"json": {"image": "x", "topp": 1}}, 422, "topp is wrong"),
        ({"json": {}}, 422, "image is wrong: Field required"),
        ({"content": picture(), "params": {"top": 0}}, 422, "query.top is wrong"),
        ({"content": picture(), "params": {"top": "many"}}, 422, "query.top is wrong"),
        (
            {"content": picture(), "params": {"explain": "perhaps"}},
            422,
            "query.explain is wrong",
        ),
        ({"files": [("other", ("a.png", picture()))]}, 422, "no picture"),
        ({"data": {"file": "text"}, "files": [("x", ("x", b""))]}, 422, "no picture"),
        (
            {"files": [("file", (f"{i}.png", picture())) for i in range(17)]},
            400,
            "Too many files",
        ),
        (
            {"content": b"--x", "headers": {"content-type": "multipart/form-data"}},
            400,
            "boundary",
        ),
        (
            {
                "content": b"nonsense",
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
            400,
            "nvalid",
        ),
    ],
)
def test_each_fault_has_its_status_and_one_sentence(
    client: TestClient, how: dict[str, Any], status: int, words: str
) -> None:
    response = client.post("/predict", **how)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]
    assert client.post("/predict", content=picture()).status_code == 200


def test_what_is_not_there_and_what_is_not_done(client: TestClient) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/figures/../secret.png").status_code == 404
    assert "path.name is wrong" in client.get("/figures/other.png").json()["error"]
    refused = client.get("/predict")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert set(refused.json()) == {"error"}


@pytest.mark.parametrize("kind", ["image/jpeg", "multipart/form-data"])
def test_every_bad_image_gets_the_right_status(
    client: TestClient, shared: Path, kind: str
) -> None:
    folder = shared / "data" / "bad_images"
    rows = list(
        csv.DictReader(
            (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()
        )
    )
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        many = kind.startswith("multi")
        response = (
            client.post("/predict", files={"file": (row["file"], data)})
            if many
            else post(client, data, "", kind)
        )
        allowed = {
            "accept": {200},
            "reject": {413, 415, 422},
            "either": {200, 413, 415, 422},
        }[row["expect"]]
        assert response.status_code in allowed, (row["file"], response.text)
        if (
            row["category"] == "bomb"
            and row["expect"] == "reject"
            and row["file"] != "badwidth.bmp"
        ):
            assert response.status_code == 413, row["file"]
        if row["category"] == "not-image":
            assert response.status_code == 415, row["file"]
    assert len(rows) > 60


def test_clients_at_once_are_computed_together_and_each_gets_its_own_answer(
    predictor: Predictor,
) -> None:
    pictures = [picture(seed, (20 + seed, 50)) for seed in range(48)]
    with (
        TestClient(create_app(predictor, Limits(patience=0.5))) as client,
        concurrent.futures.ThreadPoolExecutor(48) as clients,
    ):
        answers = list(
            clients.map(
                lambda data: post(client, data).json()["predictions"][0], pictures
            )
        )
        text = client.get("/metrics").text
    assert all(
        same(answer, predictor, data)
        for answer, data in zip(answers, pictures, strict=True)
    )
    values = dict(
        line.split(" ") for line in text.splitlines() if not line.startswith("#")
    )
    assert float(values["mlp_mixer_pictures_computed"]) == 48
    assert float(values["mlp_mixer_pictures_batches"]) < 24
    assert float(values["mlp_mixer_pictures_waiting"]) == 0
    assert float(values['mlp_mixer_request_seconds_count{status="200"}']) == 48


class Held:
    """A predictor whose computing waits until it is let go."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        compute = predictor.logits

        def held(x: torch.Tensor) -> torch.Tensor:
            self.begun.set()
            assert self.go.wait(20)
            return compute(x)

        self.go.set()
        monkeypatch.setattr(predictor, "logits", held)


def test_too_many_are_told_to_come_again(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(predictor, monkeypatch)
    with (
        TestClient(create_app(predictor, Limits(waiting=2, batch=1))) as client,
        concurrent.futures.ThreadPoolExecutor(3) as clients,
    ):
        held.begun.clear()
        held.go.clear()
        first = clients.submit(post, client, picture())
        assert held.begun.wait(20)
        more = [
            clients.submit(
                client.post, "/predict", files=[("file", ("a", picture()))] * 2
            )
        ]
        while client.get("/readyz").status_code == 200:
            pass
        refused = post(client, picture())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "waiting already" in refused.json()["error"]
        assert client.get("/healthz").status_code == 200
        held.go.set()
        assert [future.result().status_code for future in (first, *more)] == [200, 200]
        assert client.get("/readyz").status_code == 200
        assert post(client, picture()).status_code == 200  # and no place was lost


def test_what_takes_too_long_is_given_up(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(predictor, monkeypatch)
    with TestClient(create_app(predictor, Limits(seconds=0.2))) as client:
        held.go.clear()
        late = post(client, picture())
        assert (late.status_code, "too long" in late.json()["error"]) == (504, True)
        held.go.set()
        while post(client, picture()).status_code != 200:
            pass


def test_all_bodies_together_have_a_bound(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(predictor, monkeypatch)
    data = picture(size=(100, 100), form="BMP")
    with (
        TestClient(create_app(predictor, Limits(held_bytes=len(data) + 9))) as client,
        concurrent.futures.ThreadPoolExecutor(1) as clients,
    ):
        held.begun.clear()
        held.go.clear()
        first = clients.submit(post, client, data)
        assert held.begun.wait(20)
        refused = post(client, data)
        assert (
            refused.status_code,
            "as many pictures as it can" in refused.json()["error"],
        ) == (503, True)
        held.go.set()
        assert first.result().status_code == 200
        assert (
            post(client, data).status_code == 200
        )  # what was held is given back, also by the refused one


def test_an_error_of_ours_is_a_500_and_the_next_batch_comes(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = predictor.logits
    with TestClient(create_app(predictor), raise_server_exceptions=False) as client:
        monkeypatch.setattr(predictor, "logits", lambda x: 1 / 0)
        broken = post(client, picture())
        assert (broken.status_code, "its log says which" in broken.json()["error"]) == (
            500,
            True,
        )
        monkeypatch.setattr(predictor, "logits", compute)
        assert post(client, picture()).status_code == 200


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Starlette, of a part that never ends
def test_fuzzed_requests_are_answered_or_refused_and_never_break_anything(
    client: TestClient,
) -> None:
    dice = random.Random(7)
    good = [
        picture(form=form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
    ]
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + good[0]
        + b"\r\n--x--\r\n"
    )
    bodies = [
        *good,
        form,
        json.dumps({"image": base64.b64encode(good[0]).decode(), "top": 3}).encode(),
        b"",
    ]
    kinds = [
        "image/png",
        "application/json",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "x",
        "",
    ]
    counts: dict[int, int] = {}
    for _ in range(FUZZED):
        body = bytearray(dice.choice(bodies))
        for _ in range(dice.choice([0, 1, 3, 30])):
            if body:
                place = dice.randrange(len(body))
                body[place : place + dice.choice([0, 1, 1, 9])] = dice.randbytes(
                    dice.choice([0, 1, 1, 9])
                )
        query = dice.choice(
            [
                "",
                "",
                "",
                f"?top={dice.choice([1, 5, 0, -1, 10**30, '%00', 'é'])}",
                "?explain=%ff",
            ]
        )
        response = post(client, bytes(body), query, dice.choice(kinds))
        counts[response.status_code] = counts.get(response.status_code, 0) + 1
        assert response.status_code in REFUSALS | {200}, (
            response.status_code,
            response.text,
        )
        assert set(response.json()) in ({"error"}, {"predictions", "milliseconds"})
    assert counts[200] > FUZZED / 20
    assert (
        "mlp_mixer_pictures_waiting 0.0" in client.get("/metrics").text
    )  # each gave its place back
    assert client.get("/readyz").status_code == 200


def test_the_explanation_is_a_picture_of_the_models_size(client: TestClient) -> None:
    [answer] = post(client, picture(), "?explain=true").json()["predictions"]
    head, _, data = answer["explanation"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_the_card_the_figures_and_the_page(
    client: TestClient, predictor: Predictor
) -> None:
    card = client.get("/model").json()
    assert card["labels"] == list("abcdef")
    assert card["parameters"] == sum(p.numel() for p in predictor.model.parameters())
    for name in card["figures"]:
        response = client.get(f"/figures/{name}.png")
        assert response.headers["content-type"] == "image/png"
        Image.open(io.BytesIO(response.content)).verify()
    for path, kind in {
        "/": "html",
        "/page.css": "css",
        "/page.js": "javascript",
    }.items():
        response = client.get(path)
        assert response.headers["content-type"].startswith(f"text/{kind}")
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "//" not in response.text.replace(
            "// ", ""
        )  # no address of another host
    assert {*client.get("/openapi.json").json()["paths"]} >= {
        "/predict",
        "/healthz",
        "/readyz",
        "/metrics",
        "/model",
    }


def test_provenance_names_no_folder(predictor: Predictor) -> None:
    checkpoint = Checkpoint(
        predictor.model,
        predictor.checkpoint.preprocess,
        None,
        {"file": "/home/somebody/secret/w.npz", "name": "w"},
    )
    with TestClient(create_app(Predictor(checkpoint, engine="torch"))) as client:
        assert client.get("/model").json()["provenance"] == {
            "file": "w.npz",
            "name": "w",
        }


def test_a_model_without_classes_is_refused_at_the_start(predictor: Predictor) -> None:
    model = create_model("mixer_nano4", num_blocks=1, num_classes=0)
    with pytest.raises(UserError, match="no classifier"):
        create_app(Predictor(Checkpoint(model, predictor.checkpoint.preprocess)))
