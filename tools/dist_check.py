"""Build wheel and sdist twice, and use each of them as a stranger would.

    make dist-check                     # or: python tools/dist_check.py dist

Two builds, from copies with other times and in other folders, must have the same bytes.
Then both files are installed into fresh environments, without a network and with a home
that cannot be written, and the command answers there. The dependencies are those of the
Python that runs this. hatchling must be installed there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PICTURE = ROOT / "demo" / "bird.JPEG"
_LAST_COMMIT = ["git", "log", "-1", "--format=%ct"]


def tracked() -> list[Path]:
    """Return the files of the checkout, relative to it; without git all of the folder."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.SubprocessError):
        return [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    names = (os.fsdecode(name) for name in done.stdout.split(b"\0") if name)
    return [Path(name) for name in names if (ROOT / name).is_file()]


def epoch() -> str:
    """Return the time that the files carry: that of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    try:
        done = subprocess.run(
            _LAST_COMMIT, cwd=ROOT, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return "1577836800"
    return done.stdout.strip()


def build(place: Path, stamp: int, mode: int) -> list[Path]:
    """Build in a copy whose files have another time and other rights."""
    copy = place / f"copy-{stamp}"
    for name in tracked():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        target.chmod(mode)
        os.utime(target, (stamp, stamp))
    out = place / f"dist-{stamp}"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(out)],
        cwd=copy,
        check=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch()},
        stdout=subprocess.DEVNULL,
    )
    return sorted(out.iterdir())


def same_bytes(one: list[Path], other: list[Path]) -> None:
    """Compare the files of two builds."""
    for a, b in zip(one, other, strict=True):
        first, second = (
            hashlib.sha256(path.read_bytes()).hexdigest() for path in (a, b)
        )
        if a.name != b.name or first != second:
            raise SystemExit(f"two builds of {a.name} differ: {first} and {second}")
        print(f"{first}  {a.name} ({a.stat().st_size:,} bytes), twice the same")


def nothing_else(wheel: Path) -> None:
    """Look for what has no place in a wheel."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    strangers = [top for top in tops if not top.startswith("mlp_mixer")]
    if strangers or any("__pycache__" in name for name in names):
        raise SystemExit(f"{wheel.name} holds {strangers or 'compiled files'}")


def try_it(file: Path, place: Path) -> None:
    """Install a file into a fresh environment, and answer for a picture."""
    folder = place / f"env-{file.suffix.lstrip('.')}"
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    packages = Path(found.stdout.strip())
    offline = {
        **os.environ,
        "HOME": _home(place),
        "USERPROFILE": _home(place),
        "MLP_MIXER_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    for name in ("PYTHONPATH", "MLP_MIXER_CACHE", "XDG_CACHE_HOME"):
        offline.pop(name, None)
    # Dependencies, and for the sdist its build backend, are found behind its own folder.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    alone = [
        "--no-deps",
        "--no-build-isolation",
        "--ignore-installed",
        "--no-cache-dir",
    ]
    subprocess.run([*pip, *alone, str(file)], check=True, env=offline, cwd=place)
    command = [python, "-m", "mlp_mixer"]
    where = "import mlp_mixer; print(mlp_mixer.__file__)"
    here = _said([python, "-c", where], place, offline)
    if not Path(here).is_relative_to(packages):
        raise SystemExit(f"{file.name} is not what is imported: {here}")
    for script in scripts.glob("mlp-mixer*"):
        print(f"{file.name}: {_said([script, '--version'], place, offline)}")
    _said([*command, "doctor"], place, offline)
    answer = _said([*command, "predict", str(_PICTURE)], place, offline)
    print(f"{file.name}: {' '.join(answer.splitlines()[-1].split())}")


def _home(place: Path) -> str:
    """Return a home that cannot be written, by root neither where there is /proc."""
    if Path("/proc/self").exists():
        return "/proc/no-home"
    home = place / "home"
    home.mkdir(exist_ok=True)
    home.chmod(0o555)
    return str(home)


def _said(command: list[object], place: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout.strip()


def main(out: str = "dist") -> None:
    """Check, and leave the files in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = build(place, 1_000_000_000, 0o644)
        second = build(place, 1_500_000_000, 0o600)
        same_bytes(first, second)
        for file in first:
            if file.suffix == ".whl":
                nothing_else(file)
            try_it(file, place)
        Path(out).mkdir(exist_ok=True)
        for file in first:
            shutil.copyfile(file, Path(out) / file.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
