"""The HTTP API: the same answers in every form, and the right status for every fault."""

from __future__ import annotations

import base64
import concurrent.futures
import csv
import io
import json
import os
import random
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from mlp_mixer.errors import UserError
from mlp_mixer.inference import Predictor
from mlp_mixer.models import create_model
from mlp_mixer.serve import Limits, create_app
from mlp_mixer.weights import Checkpoint

FUZZED = int(os.environ.get("MLP_MIXER_FUZZED_REQUESTS", "300"))
REFUSALS = {400, 404, 405, 408, 413, 415, 422}


def picture(
    seed: int = 0, size: tuple[int, int] = (40, 30), form: str = "PNG"
) -> bytes:
    width, height = size
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
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
    """Compare an answer with the predictor's own, but for rounding in the scores.

    A picture in a batch of several is computed by other kernels than one alone.
    """
    expected = predictor(data).to_dict() | {"path": name}
    expected["pred_score"] = pytest.approx(expected["pred_score"], abs=1e-5)
    expected["top"] = list(expected["top"][:top])
    for candidate in expected["top"]:
        candidate["score"] = pytest.approx(candidate["score"], abs=1e-5)
    return bool(answer == expected)


def test_every_form_of_a_request_gives_what_the_predictor_says(
    client: TestClient, predictor: Predictor
) -> None:
    data = picture(1)
    other = picture(2, form="JPEG")
    text = base64.b64encode(data).decode()
    encoded = {"image": text, "top": 2}
    url = {"image": f"data:image/png;base64,{text}", "top": 2}
    mime = {"image": base64.encodebytes(data).decode().replace("\n", "\r\n"), "top": 2}
    for response, top in (
        (post(client, data), 5),
        (post(client, data, "?top=3", "image/png"), 3),
        (client.post("/predict", json=encoded), 2),
        (client.post("/predict", json=url), 2),
        (client.post("/predict", json=mime), 2),
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
    """Return a small PNG whose header claims 60 million pixels."""
    data = bytearray(picture())
    data[16:24] = (10_000).to_bytes(4, "big") + (6_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def typed(content: bytes, kind: str) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}}


def asking(**params: object) -> dict[str, Any]:
    return {"content": picture(), "params": params}


NO_FILE = {"files": [("other", ("a.png", picture()))]}
TEXT = {"data": {"file": "text"}, "files": [("x", ("x", b""))]}
MANY = {"files": [("file", (f"{number}.png", picture())) for number in range(17)]}
FORM = "multipart/form-data"
STREAM = (bytes(2**18) for _ in range(6))


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({"content": b""}, 422, "empty"),
        ({"content": b"<html>"}, 415, "not an image in a known format"),
        ({"content": picture(form="JPEG")[:-300]}, 422, "cut short"),
        ({"content": bomb()}, 413, "10000 x 6000 pixels, at most 50000000"),
        ({"content": bytes(2**20 + 1)}, 413, "at most 1 MiB"),
        ({"content": bytes(9 * 2**20)}, 413, "at most 1 MiB"),
        ({"content": STREAM}, 413, "at most 1 MiB"),
        (typed(picture(), "text/html"), 415, "cannot read 'text/html'"),
        (typed(b"{", "application/json"), 422, "Invalid JSON"),
        ({"json": {"image": "?"}}, 422, "no base64"),
        ({"json": {"image": "x", "top": 0}}, 422, "top is wrong"),
        ({"json": {"image": "x", "topp": 1}}, 422, "topp is wrong"),
        ({"json": {}}, 422, "image is wrong: Field required"),
        ({"json": []}, 422, 'Invalid JSON: expected {"image"'),
        ({"json": "text"}, 422, 'Invalid JSON: expected {"image"'),
        ({"json": {"k" * 9_999: 1, "image": "x"}}, 422, "kkk is wrong"),
        (asking(top=0), 422, "query.top is wrong"),
        (asking(top="many"), 422, "query.top is wrong"),
        (asking(explain="perhaps"), 422, "query.explain is wrong"),
        (NO_FILE, 422, "no picture"),
        (TEXT, 422, "no picture"),
        (MANY, 400, "Too many files"),
        (typed(b"--x", FORM), 400, "boundary"),
        (typed(b"nonsense", f"{FORM}; boundary=x"), 400, "nvalid"),
    ],
)
def test_each_fault_has_its_status_and_one_sentence(
    client: TestClient, how: dict[str, Any], status: int, words: str
) -> None:
    response = client.post("/predict", **how)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]
    assert len(response.text) < 400
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
    predictor: Predictor, shared: Path, kind: str
) -> None:
    app = create_app(predictor, Limits(max_bytes=2**20, formats=None))
    with TestClient(app, raise_server_exceptions=False) as client:
        check_bad_images(client, shared, kind)


def check_bad_images(client: TestClient, shared: Path, kind: str) -> None:
    folder = shared / "data" / "bad_images"
    manifest = (folder / "manifest.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(manifest.splitlines()))
    refused = {413, 415, 422}
    allowed = {"accept": {200}, "reject": refused, "either": {200, *refused}}
    for row in rows:
        name = row["file"]
        data = (folder / name).read_bytes()
        if kind == FORM:
            response = client.post("/predict", files={"file": (name, data)})
        else:
            response = post(client, data, "", kind)
        assert response.status_code in allowed[row["expect"]], (name, response.text)
        is_bomb = row["category"] == "bomb" and row["expect"] == "reject"
        # Its header is broken, so its size is not known.
        if is_bomb and name != "badwidth.bmp":
            assert response.status_code == 413, name
        if row["category"] == "not-image":
            assert response.status_code == 415, name
    assert len(rows) > 60


def test_clients_at_once_are_computed_together_and_each_gets_its_own_answer(
    predictor: Predictor,
) -> None:
    pictures = [picture(seed, (20 + seed, 50)) for seed in range(48)]
    with (
        TestClient(create_app(predictor, Limits(patience=0.5))) as client,
        concurrent.futures.ThreadPoolExecutor(48) as clients,
    ):
        responses = list(clients.map(lambda data: post(client, data), pictures))
        metrics = read_metrics(client)
    for response, data in zip(responses, pictures, strict=True):
        (answer,) = response.json()["predictions"]
        assert same(answer, predictor, data)
    assert metrics["mlp_mixer_pictures_computed"] == 48
    assert metrics["mlp_mixer_pictures_batches"] < 24
    assert metrics["mlp_mixer_pictures_waiting"] == 0
    assert metrics['mlp_mixer_request_seconds_count{status="200"}'] == 48


def read_metrics(client: TestClient) -> dict[str, float]:
    values = {}
    for line in client.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, value = line.split(" ")
            values[name] = float(value)
    return values


class Held:
    """A predictor whose computing waits until it is let go."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        compute = predictor.logits

        def held(x: torch.Tensor) -> torch.Tensor:
            self.begun.set()
            assert self.go.wait(300)
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
        assert held.begun.wait(300)
        two = [("file", ("a", picture()))] * 2
        more = clients.submit(client.post, "/predict", files=two)
        while client.get("/readyz").status_code == 200:
            pass
        refused = post(client, picture())
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "waiting already" in refused.json()["error"]
        assert client.get("/healthz").status_code == 200
        held.go.set()
        assert first.result().status_code == more.result().status_code == 200
        # No place was lost.
        assert client.get("/readyz").status_code == 200
        assert post(client, picture()).status_code == 200


def test_what_takes_too_long_is_given_up(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(predictor, monkeypatch)
    with TestClient(create_app(predictor, Limits(seconds=0.2))) as client:
        held.go.clear()
        late = post(client, picture())
        assert late.status_code == 504
        assert "too long" in late.json()["error"]
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
        assert held.begun.wait(300)
        refused = post(client, data)
        assert refused.status_code == 503
        assert "as many pictures as it can" in refused.json()["error"]
        held.go.set()
        assert first.result().status_code == 200
        # What was held is given back, also by the refused one.
        assert post(client, data).status_code == 200


def test_an_error_of_ours_is_a_500_and_the_next_batch_comes(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = predictor.logits
    with TestClient(create_app(predictor), raise_server_exceptions=False) as client:
        monkeypatch.setattr(predictor, "logits", lambda x: 1 / 0)
        broken = post(client, picture())
        assert broken.status_code == 500
        assert "its log says which" in broken.json()["error"]
        monkeypatch.setattr(predictor, "logits", compute)
        assert post(client, picture()).status_code == 200


def damaged(body: bytes, dice: random.Random) -> bytes:
    """Replace up to 30 places of a body by other bytes, more or fewer."""
    damaged = bytearray(body)
    for _ in range(dice.choice([0, 1, 3, 30])):
        if damaged:
            place = dice.randrange(len(damaged))
            end = place + dice.choice([0, 1, 1, 9])
            damaged[place:end] = dice.randbytes(dice.choice([0, 1, 1, 9]))
    return bytes(damaged)


def test_fuzzed_requests_are_answered_or_refused_and_never_break_anything(
    client: TestClient,
) -> None:
    dice = random.Random(7)
    formats = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
    good = [picture(form=form) for form in formats]
    head = b'Content-Disposition: form-data; name="file"; filename="a"'
    form = b"--x\r\n" + head + b"\r\n\r\n" + good[0] + b"\r\n--x--\r\n"
    encoded = {"image": base64.b64encode(good[0]).decode(), "top": 3}
    bodies = [*good, form, json.dumps(encoded).encode(), b""]
    kinds = ["image/png", "application/json", f"{FORM}; boundary=x", "x", ""]
    kinds.append("application/octet-stream")
    queries = ["", "", "", "?top=3", "?top=0", "?top=-1", f"?top={10**30}"]
    queries += ["?top=%00", "?top=é", "?explain=%ff"]
    answered = 0
    for _ in range(FUZZED):
        body = damaged(dice.choice(bodies), dice)
        response = post(client, body, dice.choice(queries), dice.choice(kinds))
        answered += response.status_code == 200
        assert response.status_code in {200, *REFUSALS}, response.text
        assert set(response.json()) in ({"error"}, {"predictions", "milliseconds"})
    assert answered > FUZZED / 20
    # Each picture gave its place back.
    assert read_metrics(client)["mlp_mixer_pictures_waiting"] == 0
    assert client.get("/readyz").status_code == 200


def test_the_explanation_is_a_picture_of_the_models_size(client: TestClient) -> None:
    [answer] = post(client, picture(), "?explain=true").json()["predictions"]
    head, _, data = answer["explanation"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")


def test_the_map_lies_on_the_part_that_the_network_saw(
    client: TestClient, predictor: Predictor
) -> None:
    """Also of a photo that lies on its side, as phones write them."""
    seen = predictor.checkpoint.preprocess.seen
    lying = Image.Exif()
    lying[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (60, 30), (9, 99, 9)).save(file, "JPEG", exif=lying)
    for data, expected in (
        (picture(size=(60, 30)), seen(30, 60)),
        (file.getvalue(), seen(60, 30)),
    ):
        [answer] = post(client, data, "?explain=true").json()["predictions"]
        assert answer["explanation_box"] == pytest.approx(expected)
        _, _, encoded = answer["explanation_map"].partition(",")
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert (image.size, image.mode) == ((32, 32), "RGBA")


def test_the_card_the_figures_and_the_page(
    client: TestClient, predictor: Predictor
) -> None:
    card = client.get("/model").json()
    assert card["computed"]["precision"] == "fp32"
    assert card["computed"]["difference"] <= 1e-4
    assert card["labels"] == list("abcdef")
    assert card["parameters"] == sum(p.numel() for p in predictor.model.parameters())
    for name in card["figures"]:
        response = client.get(f"/figures/{name}.png")
        assert response.headers["content-type"] == "image/png"
        Image.open(io.BytesIO(response.content)).verify()
        dark = client.get(f"/figures/{name}.png?dark=true").content
        assert np.asarray(Image.open(io.BytesIO(dark)))[:30].mean() < 80
    pages = (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript"))
    for path, kind in pages:
        response = client.get(path)
        assert response.headers["content-type"].startswith(f"text/{kind}")
        assert "default-src 'none'" in response.headers["content-security-policy"]
        # No address of another host; "// " begins a comment.
        assert "//" not in response.text.replace("// ", "")
    described = set(client.get("/openapi.json").json()["paths"])
    assert described >= {"/predict", "/healthz", "/readyz", "/metrics", "/model"}


def test_provenance_names_no_folder(predictor: Predictor) -> None:
    origin = {"file": "/home/somebody/secret/w.npz", "name": "w"}
    preprocess = predictor.checkpoint.preprocess
    checkpoint = Checkpoint(predictor.model, preprocess, None, origin)
    with TestClient(create_app(Predictor(checkpoint, engine="torch"))) as client:
        card = client.get("/model").json()
    assert card["computed"]["precision"] == "fp32"
    assert card["computed"]["difference"] <= 1e-4
    assert card["provenance"] == {"file": "w.npz", "name": "w"}


def test_a_model_without_classes_is_refused_at_the_start(predictor: Predictor) -> None:
    preprocess = predictor.checkpoint.preprocess
    size = preprocess.image_size
    model = create_model("mixer_nano4", num_blocks=1, num_classes=0, image_size=size)
    with pytest.raises(UserError, match="no classifier"):
        create_app(Predictor(Checkpoint(model, preprocess)))
