"""Write the locks anew: the newest versions that pip finds for the ranges in pyproject.toml (`make lock`).

requirements.txt is the environment of readers and tests; requirements-classroom.txt is what the graders of the extra
`classroom` need besides.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from chapters import ROOT, Problem, report
from llmbook.files import write_whole

LOCK = ROOT / "requirements.txt"
CLASSROOM = ROOT / "requirements-classroom.txt"
REPORT = "report.json"
# Debian 12's: some packages leave out the first patch releases of a Python.
OLDEST_PYTHON = "3.11.2"
# Move by hand only: a new torch changes numbers in every chapter, and asks for one version of triton.
HELD = ("torch==", "triton==")
# No wheel on PyPI: pip resolves for another Python from wheels only, so theirs are built here first.
SOURCE_ONLY = ("rouge-score", "seqeval", "sqlitedict", "word2number")
# Libraries that a build of torch for one accelerator brings along; torch itself says which version.
OF_ONE_ACCELERATOR = re.compile(r"nvidia-|cuda-")


def held() -> dict[str, str]:
    """Return the lines of the lock that stay as they are (pin and platform), by package."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0]: line for line in lines if line.startswith(HELD)}


def ranges() -> tuple[list[str], list[str]]:
    """Return the ranges of pyproject.toml: the project's, its build's and its extras' for readers, and the graders'."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = dict(pyproject["project"]["optional-dependencies"])
    graders = extras.pop("classroom")
    own = [*pyproject["build-system"]["requires"], *pyproject["project"]["dependencies"]]
    return sum(extras.values(), own), graders


def pip(*arguments: str) -> None:
    """Run pip, or raise its last error."""
    run = subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR:")] or ["no message"]
        raise Problem(f"pip cannot resolve pyproject.toml: {errors[-1]} (the locks are as they were)")


def resolve(wanted: list[str], folder: Path) -> dict[str, str]:
    """Return the version of each package that is needed, by name; wheels for source-only ones lie in the folder."""
    # pip lets another Python than its own be named only with a target folder and without building anything
    other = ["--python-version", OLDEST_PYTHON, "--only-binary=:all:", "--target", str(folder)]
    pip("install", "--dry-run", "--ignore-installed", "--quiet", *other, "--find-links", str(folder),
        "--report", str(folder / REPORT), *wanted)  # fmt: skip
    packages = json.loads((folder / REPORT).read_text(encoding="utf-8"))["install"]
    # a local label names the build (+cpu, +cu130), and the lock is for all builds
    versions = {one["metadata"]["name"]: one["metadata"]["version"].partition("+")[0] for one in packages}
    return {name: version for name, version in versions.items() if not OF_ONE_ACCELERATOR.match(name)}


def lock(folder: Path) -> dict[Path, list[str]]:
    """Return the lines of both locks."""
    pip("wheel", "--quiet", "--no-deps", "--use-pep517", "--wheel-dir", str(folder), *SOURCE_ONLY)
    readers, graders = ranges()
    kept = held()
    versions = resolve([*readers, *kept.values()], folder)
    pins = [kept.get(name, f"{name}=={version}") for name, version in versions.items()]
    (folder / "constraints.txt").write_text("\n".join(pins), encoding="utf-8")
    more = resolve([*graders, "--constraint", str(folder / "constraints.txt")], folder)
    return {
        LOCK: sorted(pins, key=str.upper),
        CLASSROOM: sorted((f"{name}=={more[name]}" for name in set(more) - set(versions)), key=str.upper),
    }


def main() -> int:
    """Resolve and write; the comment at the top of each file stays."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            locks = lock(Path(folder))
        except Problem as problem:
            return report([str(problem)])
    for path, pins in locks.items():
        old = path.read_text(encoding="utf-8").splitlines()
        comment = [line for line in old if line.startswith("#")]
        write_whole(path, "\n".join([*comment, *pins]) + "\n")
        changed = sorted(set(pins) ^ {line for line in old if "==" in line}, key=str.upper)
        print(f"{path.name}:", ", ".join(changed) if changed else "no change")
    return 0


if __name__ == "__main__":
    sys.exit(main())
