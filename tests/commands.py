"""Commands in processes of their own that have torch imported when they begin.

Importing takes six seconds of a processor, nearly all that a short command needs. Here a
server imports once for all tests of a worker, and a command is a fork of it: it has its
own memory, environment, folder, signals and exit code, and a kill ends it as it ends
any other. Only the seed of Python's hashes is that of the server: tests that compare
bytes let one of the commands begin from nothing, with `subprocess`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Elsewhere a fork of what has imported torch may hang: processes begin from nothing.
CONTEXT = multiprocessing.get_context(
    "forkserver" if sys.platform == "linux" else "spawn"
)
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torchvision",
        "sklearn.datasets",
        "sklearn.linear_model",
        "matplotlib.figure",
        "mlp_mixer.api.learn",
        "mlp_mixer.api.measure",
        "mlp_mixer.cli.train",
        "mlp_mixer.inference",
        "mlp_mixer.training.loop",
    ]
)
PATIENCE = 1200
"""Seconds until a command that does not end fails its test."""


class Command:
    """A `python ARGUMENTS` under way: a script, `-m MODULE` or `-c PROGRAM`.

    Args:
        arguments: The words after `python`.
        env: Its environment; None for this process's.
        cwd: Its folder; None for this process's.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.arguments = [str(word) for word in arguments]
        self.stdout = ""
        self.stderr = ""
        self._files = [_empty_file(), _empty_file()]
        given = {
            "ARGUMENTS": self.arguments,
            "ENVIRONMENT": dict(os.environ if env is None else env),
            "FOLDER": str(cwd or Path.cwd()),
            "FILES": self._files,
        }
        # Tests are no package that another process can import: it reads this file.
        self._process = CONTEXT.Process(
            target=runpy.run_path, args=(__file__, given, "a command")
        )
        with _one_thread():
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, -N after signal N, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Return the exit code; the output is there then, as `stdout` and `stderr`.

        Raises:
            subprocess.TimeoutExpired: It was still running, and has been killed.
        """
        self._process.join(timeout)
        late = self.poll() is None
        if late:
            self.kill()
            self._process.join()
        self.stdout, self.stderr = (
            Path(file).read_text(encoding="utf-8", errors="replace")
            for file in self._files
        )
        for file in self._files:
            Path(file).unlink()
        if late:
            raise subprocess.TimeoutExpired(self.arguments, timeout, self.stdout)
        code = self.poll()
        assert code is not None
        return code

    def completed(self) -> subprocess.CompletedProcess[str]:
        """Wait, and return what `subprocess.run` would."""
        code = self.wait()
        return subprocess.CompletedProcess(
            self.arguments, code, self.stdout, self.stderr
        )


def run(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end."""
    return Command(arguments, env=env, cwd=cwd).completed()


class Group:
    """Several commands that know of each other by the variables that torchrun sets."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        processes: int,
        *,
        env: Mapping[str, str] | None = None,
    ) -> None:
        common = {
            **(os.environ if env is None else env),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "TORCHELASTIC_RUN_ID": "tests",
        }
        self.members = [
            Command(
                arguments, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            )
            for rank in range(processes)
        ]

    def poll(self) -> int | None:
        """Return an exit code as soon as one of them has ended, None before."""
        codes = [member.poll() for member in self.members]
        return next((code for code in codes if code is not None), None)

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def completed(self) -> subprocess.CompletedProcess[str]:
        """Wait, and return the worst exit code with the output of all."""
        ended = [member.completed() for member in self.members]
        worst = max((one.returncode for one in ended), key=abs)
        out, err = ("".join(parts) for parts in zip(*_outputs(ended), strict=True))
        return subprocess.CompletedProcess(ended[0].args, worst, out, err)


def until(
    ready: Callable[[], bool],
    process: Command | Group | subprocess.Popen[str] | subprocess.Popen[bytes],
) -> None:
    """Wait until something has happened, or the process that does it has ended."""
    end = time.monotonic() + PATIENCE
    while not ready() and process.poll() is None:
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def _outputs(
    ended: list[subprocess.CompletedProcess[str]],
) -> list[tuple[str, str]]:
    return [(one.stdout, one.stderr) for one in ended]


def _empty_file() -> str:
    descriptor, path = tempfile.mkstemp(prefix="mlp_mixer_command_")
    os.close(descriptor)
    return path


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _one_thread() -> contextlib.AbstractContextManager[None]:
    """What begins here has one thread: a server with several could not fork safely."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _become(
    arguments: list[str], environment: dict[str, str], folder: str, files: list[str]
) -> None:
    """Do what the interpreter does with its words, in a process that is new."""
    for number, file in enumerate(files, start=1):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    first, *rest = arguments
    sys.argv = rest if first == "-m" else [first, *rest[first == "-c" :]]
    if first == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "a command":
    _become(ARGUMENTS, ENVIRONMENT, FOLDER, FILES)
