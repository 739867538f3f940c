"""A server answers to its names only, and refuses everything in one form."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from mlp_mixer.errors import UserError
from mlp_mixer.inference import Predictor
from mlp_mixer.serve import Limits, create_app, default_hosts, formats_of
from mlp_mixer.serve.hosts import is_allowed


@pytest.mark.parametrize(
    ("listens", "header", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost:8000", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "evil.example:8000", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "10.0.0.7", False),
        ("10.0.0.7", "10.0.0.7:80", True),
        ("my.example.org", "My.Example.org.:80", True),
        ("0.0.0.0", "10.0.0.7:8000", True),
        ("::", "[fe80::1]:8000", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "10.0.0.7.evil.example", False),
        ("0.0.0.0", "", False),
        ("127.0.0.1", "localhost:8000@evil.example", False),
        ("127.0.0.1", "[::1].evil.example", False),
        ("127.0.0.1", "[::1]:80:80", False),
        ("127.0.0.1", "localhost:http", False),
        ("127.0.0.1", "localhost/evil.example", False),
        ("127.0.0.1", "localhost:", True),
    ],
)
def test_names_of_a_server_by_default(listens: str, header: str, allowed: bool) -> None:
    assert is_allowed(header, default_hosts(listens)) is allowed


@pytest.mark.parametrize(
    ("hosts", "header", "allowed"),
    [
        (("*",), "anything", True),
        (("*.example.org",), "a.b.example.org:443", True),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), "evilexample.org", False),
        (("mixer",), "mixer", True),
        (("mixer",), "localhost", False),
    ],
)
def test_names_that_were_given(
    hosts: tuple[str, ...], header: str, allowed: bool
) -> None:
    assert is_allowed(header, hosts) is allowed


def test_another_name_is_refused_everywhere_with_the_headers_of_every_answer(
    predictor: Predictor,
) -> None:
    with TestClient(create_app(predictor, Limits(), ("Pictures.example",))) as client:
        for path in ("/", "/model", "/healthz", "/nothing"):
            refused = client.get(path, headers={"host": "evil.example"})
            assert refused.status_code == 400
            assert "--allowed-hosts" in refused.json()["error"]
            assert refused.headers["x-content-type-options"] == "nosniff"
        good = client.get("/healthz", headers={"host": "pictures.example:8000"})
        assert good.status_code == 200


def test_nothing_is_redirected(client: TestClient) -> None:
    """FastAPI would send /model/ to http://HOST/model, whatever HOST is."""
    for path in ("/model/", "/predict/", "http://testserver//evil/", "/healthz/"):
        answer = client.get(path, follow_redirects=False)
        assert answer.status_code == 404
        assert "location" not in answer.headers


def test_health_fails_when_a_part_is_dead(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(predictor)) as client:
        assert client.get("/healthz").status_code == 200
        monkeypatch.setattr(
            "mlp_mixer.serve.batcher.Batcher.alive", property(lambda _: False)
        )
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"


def test_formats_by_name() -> None:
    assert formats_of("all") is None
    assert formats_of("jpg, PNG,tif") == ("JPEG", "PNG", "TIFF")
    with pytest.raises(UserError, match="unknown format 'jpegg'; did you mean 'jpeg'"):
        formats_of("jpegg")
    # What runs programs cannot be chosen.
    with pytest.raises(UserError, match="unknown format 'eps'"):
        formats_of("eps")
    with pytest.raises(UserError, match="no format is left"):
        formats_of(" , ")
