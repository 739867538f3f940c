"""Classify pictures on a Ray cluster, into the file that `mlp-mixer predict` writes.

    pip install "ray[data]"
    python examples/ray_data.py runs/mine photos/ answers.csv --workers 4 --gpus 1
    python examples/ray_data.py runs/mine pictures.parquet answers.parquet

The pictures are those of a folder that all nodes see, or the rows of a Parquet file (or a
folder of them), with a column `image` of encoded bytes or a column `path`. On a cluster add
`--address auto`; the package must be installed on all nodes.

Each worker is an actor that loads the network once. When one dies, Ray starts another and
gives it the blocks that were lost. Answers are small, so the process that began the work
writes all of them, in the order of the pictures: a picture is answered once or the program
fails, whatever died. It keeps nothing on the way: a job that must survive its own death is
`mlp-mixer predict --part`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

import mlp_mixer as mm
from mlp_mixer.inference import formats
from mlp_mixer.inference.pictures import expand

BLOCKS_PER_WORKER = 8  # what is done again after a death is one of them


class Answers:
    """Answers batches of pictures; each worker has one."""

    def __init__(self, checkpoint: str, device: str, top: int, column: str) -> None:
        self.predictor = mm.Predictor(checkpoint, device=device, top=top)
        self.column = column

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pictures = []
        for picture in batch[self.column]:
            # As `datasets` writes pictures.
            pictures.append(picture["bytes"] if isinstance(picture, dict) else picture)
        answers = self.predictor.predict(pictures, batch_size=max(2, len(pictures)))
        # Bytes have no name; the process that writes numbers them.
        names = batch.get("name", [p if isinstance(p, str) else "" for p in pictures])
        rows = []
        for name, answer in zip(names, answers, strict=True):
            rows.append(json.dumps({**answer.to_dict(), "path": name}))
        return {"answer": rows}


def pictures_below(folder: Path, blocks: int) -> tuple[Dataset, str, list[str]]:
    """Return the pictures of a folder, their column, and the names of all of them."""
    rows = []
    for name, picture in expand([folder]):
        # Workers may stand in another folder. A failure's picture is its name again.
        place = picture if isinstance(picture, Path) else Path(name)
        rows.append({"name": name, "picture": str(place.absolute())})
    data = ray.data.from_items(rows, override_num_blocks=min(blocks, len(rows)))
    return data, "picture", [row["name"] for row in rows]


def pictures_in_tables(source: Path) -> tuple[Dataset, str, list[str]]:
    """Return the pictures of Parquet files: a column of bytes, or of paths."""
    table = ray.data.read_parquet(str(source.absolute()))
    columns = table.schema().names
    column = next((name for name in ("image", "path") if name in columns), None)
    if column is None:
        raise mm.UserError(
            f"{str(source)!r} has no column image or path, only {', '.join(columns)}"
        )
    return table.select_columns([column]), column, [""] * table.count()


def in_turn(
    rows: Iterable[dict[str, Any]], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the answers, of which there must be one for each name, in this order."""
    count = 0
    for count, row in enumerate(rows, 1):
        answer = json.loads(row["answer"])
        wanted = names[count - 1] if count <= len(names) else "none"
        if wanted and answer["path"] != wanted:
            raise RuntimeError(
                f"an answer to {answer['path']!r} in place of {wanted!r}"
            )
        yield {**answer, "path": answer["path"] or f"row {count - 1}"}
    if count != len(names):
        raise RuntimeError(f"{count} answers came for {len(names)} pictures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify; return how many pictures there were."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("source", type=Path, help="folder of pictures, or .parquet")
    parser.add_argument("out", type=Path, help=".csv, .json, .jsonl or .parquet")
    parser.add_argument("--address", help="of the cluster: auto, or HOST:PORT")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="of each worker")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--top", type=int, default=5)
    choice = parser.parse_args(arguments)
    formats.check_out(choice.out)
    if not choice.source.exists():
        raise mm.UserError(
            f"there is nothing at {str(choice.source)!r}; check the path"
        )
    checkpoint = choice.checkpoint
    if os.path.exists(checkpoint):  # noqa: PTH110
        checkpoint = str(Path(checkpoint).resolve())

    ray.init(address=choice.address, ignore_reinit_error=True)
    # Answers come as the pictures stand, so that nothing needs sorting.
    DataContext.get_current().execution_options.preserve_order = True
    if choice.source.suffix == ".parquet" or any(choice.source.glob("*.parquet")):
        pictures, column, names = pictures_in_tables(choice.source)
    else:
        blocks = choice.workers * BLOCKS_PER_WORKER
        pictures, column, names = pictures_below(choice.source, blocks)
    answers = pictures.map_batches(
        Answers,
        fn_constructor_kwargs={
            "checkpoint": checkpoint,
            "device": "cuda" if choice.gpus else "cpu",
            "top": choice.top,
            "column": column,
        },
        batch_size=choice.batch_size,
        compute=ActorPoolStrategy(size=choice.workers),
        num_gpus=choice.gpus,
    )
    rows = in_turn(answers.iter_rows(), names)
    top = min(choice.top, mm.load(checkpoint).model.num_classes)
    formats.write_answers(choice.out, rows, top)
    print(f"wrote answers for {len(names)} pictures to {choice.out}")
    return len(names)


if __name__ == "__main__":
    try:
        main()
    except mm.UserError as error:
        raise SystemExit(f"error: {error}") from error
