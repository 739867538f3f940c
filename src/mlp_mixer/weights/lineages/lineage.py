"""What a lineage is: names and layouts as one table that is read in both directions.

A lineage is a project's way of writing a Mixer down: what it calls the parts, and how
it lays their tensors out. Our names are timm's. `tables` has one for each project.

A row of `modules` is a template in the order of `PARTS`: `*` stands for the leaf
("kernel", "weight", ...), `{i}` for the block. lucidrains counts stem and blocks in one
list, hence `{i2}` = i + 2 and the places after the blocks `{L2}` and `{L4}`; Keras
gives the first of several layers no number, hence `{_i}`.

Axes: P patch side, C channels (hidden), S patches (tokens), D hidden width of an MLP,
K classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from ...choices import Gelu

PARTS = (
    "stem.proj",
    "blocks.{i}.norm1",
    "blocks.{i}.mlp_tokens.fc1",
    "blocks.{i}.mlp_tokens.fc2",
    "blocks.{i}.norm2",
    "blocks.{i}.mlp_channels.fc1",
    "blocks.{i}.mlp_channels.fc2",
    "norm",
    "head",
)
# Which of them are repeated in every block, the token MLP's first layer, and the norm
# before pooling.
_IN_BLOCKS = slice(1, 7)
_TOKENS_FC1 = 2
_FINAL_NORM = 7


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Layout:
    """Says how a tensor lies in a lineage, and the way to ours and back.

    Attributes:
        ndim: The number of its axes in the lineage.
        ours: From the lineage's layout to ours.
        theirs: From ours to the lineage's.
        rows: Only for a flattened stem: to (C, P P channels). `ours` then takes it
            unfolded to (C, P, P, channels), because its shape does not tell P.
    """

    ndim: int
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], Tensor] | None = None


# torch's own layouts
VECTOR = Layout(1, _same, _same)
MATRIX = Layout(2, _same, _same)
OIHW = Layout(4, _same, _same)
# Flax and Keras multiply from the right: (in, out), and (P, P, channels, C) for a stem.
TRANSPOSED = Layout(2, lambda t: t.T, lambda t: t.T)
HWIO = Layout(4, lambda t: t.permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0))
# A matrix as a convolution of width 1, and with a leading axis of length 1.
CONV1D = Layout(3, lambda t: t.squeeze(2), lambda t: t.unsqueeze(2))
LEADING_VECTOR = Layout(2, lambda t: t.squeeze(0), lambda t: t.unsqueeze(0))
LEADING_TRANSPOSED = Layout(3, lambda t: t.squeeze(0).T, lambda t: t.T.unsqueeze(0))
# A stem that sees each patch as one vector, pixel by pixel and channels last.
PATCH_ROWS = Layout(
    ndim=2,
    ours=lambda t: t.permute(0, 3, 1, 2),
    theirs=lambda t: t.permute(0, 2, 3, 1).flatten(1),
    rows=_same,
)
PATCH_COLUMNS = replace(
    PATCH_ROWS,
    theirs=lambda t: t.permute(0, 2, 3, 1).flatten(1).T,
    rows=lambda t: t.T,
)


@dataclass(frozen=True)
class Entry:
    """Pairs one tensor of a lineage with ours.

    Attributes:
        theirs: Its name in the lineage, without a prefix.
        ours: Our name; two where one norm serves both MLPs of a block.
        layout: How it lies there.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout


@dataclass(frozen=True)
class Lineage:
    """Describes a lineage: its table, and what its code computes beside the weights.

    Attributes:
        name: As `--lineage` and `--to` take it.
        whose: The project.
        modules: What it calls each of `PARTS`; None for a part that it lacks.
        gelu: The form of GELU.
        norm_eps: The epsilon of every LayerNorm.
        suffixes: Of the files that it is written to, the usual one first.
        evaluation: Its transform, a key of `transforms.EVAL_TRANSFORMS`.
        dense: The leaves of a linear layer: weight and bias.
        norm: The leaves of a norm: scale and shift.
        stem_layout: How the weight of the stem lies.
        token_layouts: How weights and biases of the token MLPs lie.
        channel_layouts: How weights and biases of the channel MLPs lie.
        head_layout: How the weight of the head lies.
        prefixes: What may stand before every name; the first is written.
    """

    name: str
    whose: str
    modules: tuple[str | None, ...]
    gelu: Gelu
    norm_eps: float
    suffixes: tuple[str, ...]
    evaluation: str
    dense: tuple[str, str] = ("weight", "bias")
    norm: tuple[str, str] = ("weight", "bias")
    stem_layout: Layout = OIHW
    token_layouts: tuple[Layout, Layout] = (MATRIX, VECTOR)
    channel_layouts: tuple[Layout, Layout] = (MATRIX, VECTOR)
    head_layout: Layout = MATRIX
    prefixes: tuple[str, ...] = ("",)

    @property
    def final_norm(self) -> bool:
        """Whether the lineage normalises before pooling."""
        return self.modules[_FINAL_NORM] is not None

    @property
    def anchor(self) -> str:
        """The template of the tensor by which its blocks are found and counted."""
        template = self.modules[_TOKENS_FC1]
        assert template is not None
        return template

    def count_blocks(self, names: Iterable[str]) -> int:
        """Return how many blocks the names speak of.

        It is one more than the highest number of a token MLP, and 0 without any.

        Args:
            names: The names of a file's tensors, without a prefix.
        """
        pattern = re.escape(self.anchor).replace(r"\*", ".+")
        pattern = re.sub(r"\\{(i|i2|_i)\\}", r"_?(\\d*)", pattern)
        numbers = []
        for name in names:
            match = re.fullmatch(pattern, name)
            # int() of a million digits would take seconds: five are enough.
            if match and len(match[1]) < 6:
                numbers.append(int(match[1] or 0))
        if not numbers:
            return 0
        # lucidrains' first block has the number 2.
        return max(numbers) + (-1 if "{i2}" in self.anchor else 1)

    def table(self, num_blocks: int) -> list[Entry]:
        """List every tensor of a Mixer in the order of computation.

        Args:
            num_blocks: The depth of the Mixer.

        Returns:
            A row for each tensor of the lineage; its names have no prefix.
        """
        parts = list(zip(PARTS, self.modules, strict=True))
        places = [(0, *parts[0])]
        for i in range(num_blocks):
            places += [(i, *part) for part in parts[_IN_BLOCKS]]
        places += [(0, *part) for part in parts[_IN_BLOCKS.stop :]]
        rows: dict[str, Entry] = {}
        for i, ours, theirs in places:
            if theirs is None:
                continue
            for entry in self._entries(ours, theirs, i, num_blocks):
                # Keras has one norm for both MLPs of a block: one row, two of ours.
                shared = rows.get(entry.theirs)
                if shared:
                    entry = replace(entry, ours=shared.ours + entry.ours)
                rows[entry.theirs] = entry
        return list(rows.values())

    def _entries(self, ours: str, theirs: str, i: int, num_blocks: int) -> list[Entry]:
        """Return the rows of weight and bias of one part."""
        numbers = {
            "i": i,
            "i2": i + 2,
            "_i": f"_{i}" if i else "",
            "L2": num_blocks + 2,
            "L4": num_blocks + 4,
        }
        module = theirs.format(**numbers)
        if "norm" in ours:
            leaves = self.norm
            layouts = (VECTOR, VECTOR)
        else:
            leaves = self.dense
            layouts = self._dense_layouts(ours)
        entries = []
        for kind, leaf, layout in zip(("weight", "bias"), leaves, layouts, strict=True):
            our_name = f"{ours.format(i=i)}.{kind}"
            entries.append(Entry(module.replace("*", leaf), (our_name,), layout))
        return entries

    def _dense_layouts(self, ours: str) -> tuple[Layout, Layout]:
        """Return how weight and bias of a linear layer lie."""
        if "mlp_tokens" in ours:
            return self.token_layouts
        if "mlp_channels" in ours:
            return self.channel_layouts
        if ours.startswith("stem"):
            return self.stem_layout, VECTOR
        return self.head_layout, VECTOR
