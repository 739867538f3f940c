"""Search several settings at once with Optuna, which ends hopeless runs early.

    pip install optuna
    python examples/optuna_sweep.py digits runs/sweep --trials 30 \\
        --search optim.lr=log:0.001..0.03 --search model.drop_path=0..0.3 \\
        --search train.batch_size=64,128,256

Optuna is asked for settings and told what they are worth (ask and tell). Each trial is
an ordinary run in `runs/sweep/trial-000`, ...; the study is in `runs/sweep/study.db`.
The same command goes on after a kill: the trial in progress from its saved state, and
the sweep with the settings that an unbroken one would have tried. Then `mlp-mixer runs
runs/sweep` lists them, and `optuna-dashboard sqlite:///runs/sweep/study.db` draws them.

Trials are compared on validation images. The test images are looked at once, at the end
and for the best trial.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.trial import Trial, TrialState

import mlp_mixer as mm
from mlp_mixer.training.journal import quality

SEARCH = ["optim.lr=log:0.001..0.03", "model.drop_path=0..0.3"]
# So many trials run to their end; later ones are ended where they are below the median.
FULL_TRIALS = 5


def parse(search: str) -> tuple[str, BaseDistribution]:
    """Read FIELD=LOW..HIGH, FIELD=log:LOW..HIGH or FIELD=A,B,C."""
    field, _, text = search.partition("=")
    try:
        if ".." not in text:
            if "," not in text:
                raise ValueError
            return field, CategoricalDistribution(text.split(","))
        low, high = map(float, text.removeprefix("log:").split(".."))
        return field, FloatDistribution(low, high, log=text.startswith("log:"))
    except ValueError as error:
        raise mm.UserError(
            f"cannot read the search {search!r}: expected FIELD=LOW..HIGH, "
            "FIELD=log:LOW..HIGH or FIELD=A,B,C"
        ) from error


def open_study(out: Path, identity: dict[str, Any]) -> optuna.Study:
    """Open the study of a folder, or begin it."""
    out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="sweep",
        storage=f"sqlite:///{out.resolve() / 'study.db'}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(FULL_TRIALS, n_warmup_steps=1),
        load_if_exists=True,
    )
    before = study.user_attrs.get("identity", identity)
    if before != identity:
        raise mm.UserError(
            f"{str(out)!r} was begun with {before}, now {identity}: give those again, or "
            "choose another folder"
        )
    study.set_user_attr("identity", identity)
    return study


def next_trial(
    study: optuna.Study, space: dict[str, BaseDistribution], seed: int
) -> Trial:
    """Return the trial that a kill has interrupted, or ask for a new one."""
    for known in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        return Trial(study, known._trial_id)
    # The settings of a trial are a function of the seed and of the trials before it, so
    # a sweep that was killed asks for the same ones.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study.ask(space)


def reporter(
    study: optuna.Study, trial: Trial, every: float
) -> Callable[[dict[str, Any]], None]:
    """Tell Optuna of each evaluation in the journal, and end the run if it says so."""
    told = study.trials[trial.number].intermediate_values

    def report(row: dict[str, Any]) -> None:
        if row["kind"] != "eval":
            return
        # Evaluations are numbered by epochs: steps differ with the batch size.
        number = math.floor(row["epoch"] / every + 1e-6)
        if number not in told:
            trial.report(quality(row), number)
        if trial.should_prune():
            raise optuna.TrialPruned

    return report


def run_trial(
    study: optuna.Study, trial: Trial, recipe: str, folder: Path, settings: list[str]
) -> None:
    """Train with the settings of a trial, and tell the study what came of it."""
    chosen = [f"{field}={value}" for field, value in trial.params.items()]
    every = mm.get_recipe(recipe).train.eval_every_epochs
    for setting in settings:
        if setting.startswith("train.eval_every_epochs="):
            every = float(setting.partition("=")[2])
    try:
        best = mm.train(
            recipe,
            folder,
            settings=[*settings, *chosen],
            resume=True,
            report=reporter(study, trial, every),
        )
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except mm.UserError as error:
        study.tell(trial, state=TrialState.FAIL)
        print(f"trial {trial.number} failed: {error}")
        # Before anything has worked, it is the command that is wrong.
        if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            raise
    else:
        study.tell(trial, quality(best))
    shown = study.trials[trial.number]
    value = "-" if shown.value is None else f"{100 * shown.value:.2f} %"
    print(f"trial {trial.number}: {shown.state.name.lower()}, {value}; {chosen}")


def main(arguments: Sequence[str] | None = None) -> tuple[Path, float, float]:
    """Sweep; give the folder of the best run, its validation and its test accuracy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", help="images in the place of the recipe's")
    parser.add_argument("--trials", type=int, default=30, help="in all")
    parser.add_argument("--search", action="append", help=f"default: {SEARCH}")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--seed", type=int, default=0, help="of the settings")
    choice = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    data = choice.data or mm.get_recipe(choice.recipe).data.source
    settings = [f"data.source={data}", *choice.settings]
    search = choice.search or SEARCH
    space = dict(map(parse, search))
    identity = {"recipe": choice.recipe, "settings": settings, "search": search}
    study = open_study(choice.out, {**identity, "seed": choice.seed})
    while True:
        over = [trial for trial in study.trials if trial.state.is_finished()]
        if len(over) >= choice.trials:
            break
        trial = next_trial(study, space, choice.seed)
        folder = choice.out / f"trial-{trial.number:03d}"
        run_trial(study, trial, choice.recipe, folder, settings)

    best = study.best_trial
    folder = choice.out / f"trial-{best.number:03d}"
    result = mm.evaluate(folder, data)
    print(f"best: {folder}, {best.params}")
    print(f"validation {100 * best.value:.2f} %, test {100 * result.top1:.2f} %")
    return folder, best.value, result.top1


if __name__ == "__main__":
    try:
        main()
    except mm.UserError as error:
        raise SystemExit(f"error: {error}") from error
