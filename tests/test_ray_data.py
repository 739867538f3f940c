"""The example for Ray: two nodes, a worker that dies, and every picture once."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import mlp_mixer as mm
from mlp_mixer.inference import predict_to_file

ray = pytest.importorskip("ray", reason="needs ray: pip install 'ray[data]'")

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_data.py"
# Ray's own notices.
pytestmark = pytest.mark.filterwarnings("ignore")
PICTURES = 97


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes on this machine; gives the address."""
    from ray.cluster_utils import Cluster

    # Ray's workers are nice to others, so much that a busy machine never starts them.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    node = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    try:
        nodes.add_node(**node)
        nodes.wait_for_nodes()
        yield nodes.address
    finally:
        ray.shutdown()
        nodes.shutdown()
        del os.environ["RAY_worker_niceness"]  # noqa: SIM112


@pytest.fixture
def example() -> ModuleType:
    # Not in sys.modules: so Ray sends its classes to the workers by value.
    spec = importlib.util.spec_from_file_location("ray_data", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = mm.create_model(
        "mixer_nano4", num_classes=5, num_blocks=1, hidden_dim=8, image_size=16
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mm.save(tmp_path / "model.safetensors", model, labels="abcde")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(PICTURES):
        colour = (number % 4 * 60, 200, 30)
        Image.new("RGB", (8, 8), colour).save(folder / f"{number:03d}.png")
    (folder / "050.png").write_bytes(b"<html>")
    return folder


def answers(out: Path) -> list[tuple[str, str, str]]:
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["path"], row["pred_class"], row["error"]) for row in rows]


def test_every_picture_is_answered_once_although_a_worker_dies(
    cluster: str,
    example: ModuleType,
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    expected = tmp_path / "expected.csv"
    predict_to_file(mm.Predictor(checkpoint), [photos], expected)

    died = tmp_path / "died"
    honest = example.Answers

    class Mortal(honest):  # type: ignore[misc, valid-type]
        """Dies in its second batch, if no other worker has died before."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.batches = 0

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            self.batches += 1
            if self.batches > 1:
                with contextlib.suppress(FileExistsError):
                    died.touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            answered: dict[str, Any] = super().__call__(batch)
            return answered

    example.Answers = Mortal  # type: ignore[attr-defined]
    out = tmp_path / "answers.csv"
    words = [str(checkpoint), str(photos), str(out), "--address", cluster]
    assert example.main([*words, "--batch-size", "4"]) == PICTURES
    assert died.exists()
    assert answers(out) == answers(expected)
    assert len({path for path, _, _ in answers(out)}) == PICTURES
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert len(nodes) == 2

    # The same pictures as bytes and as paths in Parquet files.
    example.Answers = honest  # type: ignore[attr-defined]
    import pyarrow
    from pyarrow import parquet

    paths = sorted(photos.iterdir())
    data = {"image": [path.read_bytes() for path in paths], "number": range(PICTURES)}
    parquet.write_table(pyarrow.table(data), tmp_path / "pictures.parquet")
    tables = tmp_path / "tables"
    tables.mkdir()
    names = {"path": list(map(str, paths))}
    parquet.write_table(pyarrow.table(names), tables / "1.parquet")
    for source in (tmp_path / "pictures.parquet", tables):
        out.unlink()
        words = [str(checkpoint), str(source), str(out), "--address", cluster]
        assert example.main(words) == PICTURES
        assert [row[1] for row in answers(out)] == [row[1] for row in answers(expected)]


def test_what_cannot_work_is_refused(
    example: ModuleType, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(mm.UserError, match="expected a name that ends in"):
        example.main([str(checkpoint), str(tmp_path), "out.txt"])
    with pytest.raises(mm.UserError, match="there is nothing at"):
        example.main([str(checkpoint), str(tmp_path / "no"), str(tmp_path / "a.csv")])
    row = {"answer": '{"path": "b.png"}'}
    assert [answer["path"] for answer in example.in_turn([row], ["b.png"])] == ["b.png"]
    for rows, names, why in (
        ([row], ["a.png", "b.png"], "in place of 'a.png'"),
        ([row], ["b.png", "b.png"], "1 answers came for 2"),
        ([row, row], ["b.png"], "in place of 'none'"),
        ([], [""], "0 answers came for 1"),
    ):
        with pytest.raises(RuntimeError, match=why):
            list(example.in_turn(rows, names))
