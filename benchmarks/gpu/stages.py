"""What waits for a GPU, in order of worth: `run_all.py` runs it, QUEUE.md explains it."""

from __future__ import annotations

from dataclasses import dataclass

PYTHON = "{python}"
MIXER = (PYTHON, "-m", "mlp_mixer")
# The repository turns warnings into errors; on a machine with other versions of
# everything a warning must not cost a result.
PYTEST = (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default")


@dataclass(frozen=True)
class Stage:
    """A process of its own, with a least and a most time.

    Attributes:
        name: As in QUEUE.md.
        command: Its arguments; `{device}`, `{out}`, `{work}` and `{python}` are
            filled in.
        least: Seconds that must be left, or it is not begun.
        most: Seconds after which it is killed.
        smoke: The command of a rehearsal on a CPU; None runs none.
        needs: A path without which it is left out.
        beside: Whether the stages after it begin while it runs.
        alone: Whether it measures time, so that nothing may run beside it.
    """

    name: str
    command: tuple[str, ...]
    least: float
    most: float
    smoke: tuple[str, ...] | None = None
    needs: str = ""
    beside: bool = False
    alone: bool = False


def _bench(
    name: str,
    model: str,
    peers: str,
    *,
    batch: int = 256,
    task: str = "infer",
    dtype: str = "bf16",
    least: float = 60,
    most: float = 150,
) -> Stage:
    """A bench whose rows go to bench.csv."""
    common = ("--device", "{device}", "--out", "{out}/bench.csv")
    on_gpu = ("--batch", str(batch), "--dtype", dtype, "--peers", peers)
    # The smallest network takes all the same paths.
    on_cpu = ("--batch", "2", "--dtype", dtype, "--peers", peers, "--rounds", "1")
    return Stage(
        name,
        (*MIXER, "bench", model, "--task", task, *common, *on_gpu),
        least,
        most,
        (*MIXER, "bench", "mixer_pico2", "--task", task, *common, *on_cpu),
        alone=True,
    )


def _tests(name: str, only: str, processes: int, least: float, most: float) -> Stage:
    """Tests of tests/gpu; on a CPU all of them are skipped."""
    chosen = ("-k", only) if only else ()
    return Stage(
        name,
        (*PYTEST, "-n", str(processes), *chosen, "tests/gpu"),
        least,
        most,
        (*PYTEST, "-n", "0", *chosen, "tests/gpu"),
    )


def _ladder(name: str, recipe: str, data: str, *more: str, most: float) -> Stage:
    """A record of experiments/records; it keeps its runs, which are large, out of the results."""
    command = (PYTHON, "experiments/records/ladder.py", recipe)
    source = f"{data}:data/{data}"
    place = ("--data", source, "--out", "{work}/ladder")
    return Stage(
        name, (*command, *place, *more), 60, most, needs=f"data/{data}", alone=True
    )


# The first answers to "is it right": the shapes of the paper, both forms of GELU, bits
# that repeat, the check of the device on itself, and the layout with tokens outermost.
_RIGHT = (
    "(half_precision and bfloat16 and (s32 or s16 or b16)) or every_bit "
    "or checks_itself or tokens_first or product_with_gelu"
)

STAGES: tuple[Stage, ...] = (
    Stage(
        "facts",
        (PYTHON, "benchmarks/gpu/facts.py", "{device}"),
        10,
        60,
        (PYTHON, "benchmarks/gpu/facts.py", "{device}"),
    ),
    Stage(
        "warm",
        (PYTHON, "benchmarks/gpu/warm_kernels.py", "{device}"),
        30,
        150,
        (PYTHON, "benchmarks/gpu/warm_kernels.py", "{device}"),
        beside=True,
    ),
    _tests("right", _RIGHT, 4, 40, 150),
    # The layout of plain products first: it needs no kernel of ours.
    _bench("b16", "mixer_b16", "timm,compile,ours-sbc,ours-sbc-graph"),
    _bench("b16-autotune", "mixer_b16", "autotune,ours-sbc,ours-autotune", most=200),
    _bench("s32", "mixer_s32", "timm,compile,ours-sbc,ours-sbc-graph"),
    _bench("s32-autotune", "mixer_s32", "autotune,ours-sbc-graph,ours-autotune"),
    _bench("s16", "mixer_s16", "timm,compile,ours-sbc,ours-sbc-graph"),
    _bench("s16-autotune", "mixer_s16", "autotune,ours-sbc,ours-autotune"),
    _bench("train-s16", "mixer_s16", "timm,compile", task="train", batch=128),
    _bench("train-b16", "mixer_b16", "timm,compile", task="train", batch=128),
    _tests("cuda-tests", "", 8, 60, 240),
    _bench("graph-b16", "mixer_b16", "ours-graph,ours-sbc-graph,compile", batch=1),
    _bench("fp8-b16", "mixer_b16", "ours-bf16,compile", dtype="fp8"),
    _ladder(
        "cifar10-60ep",
        "cifar10_60ep",
        "cifar10",
        *("--seeds", "1", "--epochs", "60"),
        most=150,
    ),
    _bench("l16", "mixer_l16", "compile,ours-sbc,ours-sbc-graph"),
    _bench("l16-autotune", "mixer_l16", "autotune,ours-sbc", most=200),
    _bench("graph-b16-autotune", "mixer_b16", "ours-graph,autotune", batch=1),
    _bench("graph-s16", "mixer_s16", "ours-graph,ours-sbc-graph,compile", batch=1),
    _bench("graph-b16-8", "mixer_b16", "ours-graph,compile", batch=8),
    _bench("graph-s16-8", "mixer_s16", "ours-graph,compile", batch=8),
    _bench("fp8-l16", "mixer_l16", "ours-bf16,timm,compile", dtype="fp8"),
    _ladder("fashion", "fashion_mnist", "fashion_mnist", "--seeds", "1", most=200),
    _ladder(
        "cifar10-lengths",
        "cifar10_60ep",
        "cifar10",
        *("--seeds", "3", "--epochs", "30,60,100"),
        most=400,
    ),
    _ladder("fashion-100ep", "fashion_mnist_100ep", "fashion_mnist", most=500),
    _ladder("cifar10-200ep", "cifar10_200ep", "cifar10", "--seeds", "2", most=570),
    _ladder("cifar100-200ep", "cifar100_200ep", "cifar100", "--seeds", "2", most=570),
)
