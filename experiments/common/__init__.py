"""What the experiments share: budgets, data in memory, one recipe for any network,
results that outlive a kill, and how far their differences can be trusted.

A row of results is written as soon as it is measured, and a run that is started again
goes on after the last one. The recipe is one and the same for every network that is
compared (AdamW, cosine, flips and shifts), tuned for none of them.
"""

from .command_line import BUDGETS, arguments
from .comparisons import STARS, BySeed, Difference, paired, starred, stars, welch
from .fitting import Change, Recipe, answers, backward, fit, top1
from .images import Data, floats, load_data, moments
from .pictures import COLOURS, draw_differences, picture
from .rates import ENDS, best_of, bracketed, rate_cell
from .rows import Results, machine
from .tables import per_cent, placed, spread, table, write_up

__all__ = [
    "BUDGETS",
    "COLOURS",
    "ENDS",
    "STARS",
    "BySeed",
    "Change",
    "Data",
    "Difference",
    "Recipe",
    "Results",
    "answers",
    "arguments",
    "backward",
    "best_of",
    "bracketed",
    "draw_differences",
    "fit",
    "floats",
    "load_data",
    "machine",
    "moments",
    "paired",
    "per_cent",
    "picture",
    "placed",
    "rate_cell",
    "spread",
    "starred",
    "stars",
    "table",
    "top1",
    "welch",
    "write_up",
]
