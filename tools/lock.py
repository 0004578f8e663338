"""Write requirements.txt anew: the newest versions that pip finds for the ranges in pyproject.toml (`make lock`)."""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from chapters import ROOT, Problem, report, write_atomically

LOCK = ROOT / "requirements.txt"
# Debian 12's: some packages leave out the first patch releases of a Python.
OLDEST_PYTHON = "3.11.2"
# Move by hand only: a new torch changes numbers in every chapter, and asks for one version of triton.
HELD = ("torch==", "triton==")
# No wheel on PyPI: pip resolves for another Python from wheels only. What it needs itself others bring along.
SOURCE_ONLY = ("rouge-score==", "seqeval==")
# Libraries that a build of torch for one accelerator brings along; torch itself says which version.
OF_ONE_ACCELERATOR = re.compile(r"nvidia-|cuda-")


def held() -> dict[str, str]:
    """Return the lines of the lock that stay as they are (pin and platform), by package."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0]: line for line in lines if line.startswith((*HELD, *SOURCE_ONLY))}


def requirements() -> list[str]:
    """Return all ranges of pyproject.toml (the package's, its extras' and its build's) and the pins that are held."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = pyproject["project"]["optional-dependencies"].values()
    ranges = sum(extras, [*pyproject["build-system"]["requires"], *pyproject["project"]["dependencies"]])
    wanted = [*ranges, *held().values()]
    return [line for line in wanted if not line.startswith(tuple(name.rstrip("=") for name in SOURCE_ONLY))]


def resolve() -> list[str]:
    """Return a pin for each package that the project with all its extras needs."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        # pip lets another Python than its own be named only with a target folder and without building anything
        command += ["--python-version", OLDEST_PYTHON, "--only-binary=:all:", "--target", folder]
        command += ["--report", str(result), *requirements()]
        pip = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        if pip.returncode != 0:
            errors = [line for line in pip.stderr.splitlines() if line.startswith("ERROR:")] or ["no message"]
            raise Problem(f"pip cannot resolve pyproject.toml: {errors[-1]} (requirements.txt is as it was)")
        packages = [item["metadata"] for item in json.loads(result.read_text(encoding="utf-8"))["install"]]
    kept = held()
    pins = [
        # a local label names the build (+cpu, +cu130), and the lock is for all builds
        kept.get(package["name"], f"{package['name']}=={package['version'].partition('+')[0]}")
        for package in packages
        if not OF_ONE_ACCELERATOR.match(package["name"])
    ]
    pins += [line for line in kept.values() if line.startswith(SOURCE_ONLY)]
    return sorted(pins, key=str.upper)


def main() -> int:
    """Resolve and write; the comment at the top of the file stays."""
    try:
        pins = resolve()
    except Problem as problem:
        return report([str(problem)])
    old = LOCK.read_text(encoding="utf-8").splitlines()
    comment = [line for line in old if line.startswith("#")]
    write_atomically(LOCK, "\n".join([*comment, *pins]) + "\n")
    changed = sorted(set(pins) ^ {line for line in old if "==" in line}, key=str.upper)
    print("\n".join(changed) if changed else "no change")
    return 0


if __name__ == "__main__":
    sys.exit(main())
