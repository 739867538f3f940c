"""What all tests share: where optional test data lies, and a quiet, reproducible torch."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mlp_mixer.models import VARIANTS, MlpMixer
from mlp_mixer.weights import catalog
from mlp_mixer.weights.formats import containers
from mlp_mixer.weights.lineages import translate
from mlp_mixer.weights.lineages.tables import LINEAGES

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as shells start what they put into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(os.environ.get("MLP_MIXER_SHARED", Path(__file__).parents[2] / "shared"))

TESTS = Path(__file__).parent
# They begin first, so that none is left for one process at the end, beside idle ones.
LONG = (
    "cli/test_torchrun.py",
    "experiments/test_smoke.py",
    "documents/test_site.py",
    "test_baselines.py",
    "unit/kernels/test_interpreted.py",
    "cli/test_kill.py",
    "unit/exporting/test_run.py",
    "browser/test_page.py",
    "unit/serve/test_attack.py",
    "experiments/test_records.py",
    "documents/test_readme.py",
    "test_deploy.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {TESTS / name: number for number, name in enumerate(LONG)}
    assert all(path.is_file() for path in place), "LONG names a file that is not there"
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The optional folder of test data; a test that needs it skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no test data at {SHARED} (set MLP_MIXER_SHARED)")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a stand-in for published weights where a download would leave it, and
    switches the network off.

    It has the names, layout and number of classes of the real file, and random values;
    every architecture is tiny here.
    """
    from huggingface_hub import constants

    monkeypatch.setenv("MLP_MIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLP_MIXER_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str) -> Path:
        record = catalog.find(name)
        assert record is not None
        tiny = dataclasses.replace(
            VARIANTS[record.architecture], num_blocks=1, hidden_dim=4, tokens_mlp_dim=2
        )
        monkeypatch.setitem(VARIANTS, record.architecture, tiny)
        monkeypatch.setattr(
            catalog,
            "_BY_ANY_NAME",
            {**catalog._BY_ANY_NAME, name: dataclasses.replace(record, mib=None)},
        )
        lineage = LINEAGES[record.lineage]
        model = MlpMixer(
            dataclasses.replace(tiny, num_classes=record.num_classes, gelu=lineage.gelu)
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        if record.hub:
            place = tmp_path / "hub" / f"models--{record.hub.replace('/', '--')}"
            (place / "refs").mkdir(parents=True)
            (place / "refs" / "main").write_text("0" * 40)
            path = place / "snapshots" / ("0" * 40) / record.filename
        else:
            path = catalog.cache_place(record)
        path.parent.mkdir(parents=True)
        tensors = translate.to_theirs(model.config, model.state_dict(), lineage)
        wrap = "state_dict" if record.lineage == "mmpretrain" else None
        path.write_bytes(containers.to_bytes(path.suffix, tensors, wrap=wrap))
        return path

    return put
