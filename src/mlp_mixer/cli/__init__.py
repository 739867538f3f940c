"""The command `mlp-mixer`: one file per verb, which parses, calls and prints.

Errors become exit codes here and nowhere else: 0 done; 1 part of the work failed and is
listed; 2 a mistake of the user, in one sentence; 130 Ctrl-C, 143 SIGTERM. An error of
our own making keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from .._version import __version__
from ..errors import UserError
from .augment import augment
from .average import average
from .bench import bench
from .convert import convert
from .data import data_app
from .doctor import doctor
from .evaluate import evaluate
from .explain import explain
from .export import export
from .fewshot import fewshot
from .figures import figures
from .finetune import finetune
from .models import models
from .predict import predict
from .pretrain import pretrain
from .probe import probe
from .recipes import recipes
from .report import report
from .resize import resize
from .runs import runs
from .serve import serve
from .streams import safe_streams
from .train import train

app = typer.Typer(
    name="mlp-mixer",
    no_args_is_help=True,
    # A traceback is for our own mistakes, and then it should be Python's.
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data", rich_help_panel="Train")
_VERBS = {
    "Train": (recipes, augment, train, pretrain, finetune, evaluate, report, runs),
    "Use": (predict, explain, serve, export),
    "Weights": (models, convert, average, resize, figures, fewshot, probe),
    "This machine": (bench, doctor),
}
for panel, verbs in _VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mlp-mixer {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """MLP-Mixer: train, evaluate and use all-MLP image classifiers."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: Without the name of the command; default: those of the process.
    """
    try:
        with safe_streams():
            # Not standalone: typer would print errors and end the process itself.
            code = app(arguments, prog_name="mlp-mixer", standalone_mode=False)
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output, such as `head`, has read enough.
        return 0
    except UnicodeEncodeError as error:
        # Older versions of typer look for the file before we do.
        if "surrogates" not in error.reason:
            raise
        return _fail(
            f"{error.object!r} holds half of a letter: no file can be called so"
        )
    except Exception as error:
        # Errors of usage: their class differs between versions of typer.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _fail(message()) if message() else 2
    # A verb returns its exit code; --help and --version return nothing.
    return code if isinstance(code, int) else 0


def _fail(sentence: str) -> int:
    with safe_streams():
        print(f"error: {sentence}", file=sys.stderr)
    return 2


def main() -> NoReturn:
    """Run the command and end the process with its exit code."""
    code = run()
    # Under torchrun, gloo's threads have been seen to abort a process that has done its
    # work and is about to end. So it ends without waiting for them. And a server that was
    # told to end has answered and closed everything, while Python would take a second of
    # processor time to take all objects apart.
    if "TORCHELASTIC_RUN_ID" in os.environ or sys.argv[1:2] == ["serve"]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
