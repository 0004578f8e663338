"""Every check of the project, one stage after the other, with a table at the end: `make test`.

`make test STAGE=site` runs the stages with that word in their name, `make quick` those that take little time. A stage
that fails does not keep the next from running; the exit status tells whether one did.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field, replace
from pathlib import Path

from chapters import CELL_TIMEOUT, ROOT, Problem, kernel_environment, report

BIN = ROOT / ".venv" / "bin"
IN_BROWSER = "test_site*.py"
ON_LINKS = "test_links.py"
ON_CHAPTERS = "test_chapters.py"
ON_DEVICE = "test_*_device.py"  # they change torch for their process, so they have one of their own
UNITS = "unit and property tests"
QUICK = ("ruff", "ruff format", "types", UNITS, "rules of a chapter")


@dataclass
class Stage:
    """One line of the table; ``counted`` stages are runs of pytest, ``needs`` names one that has to be ok."""

    name: str
    command: list[str]
    counted: bool = False
    needs: str = ""
    # all but the notebooks run in the caller's environment
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass
class Outcome:
    """What came of a stage."""

    name: str
    status: int
    seconds: float
    passed: int
    failed: int
    skipped: int
    notes: list[str]


def stages(root: Path = ROOT) -> list[Stage]:
    """Return the stages in the order in which they run: the quick first, the site before its tests."""
    tests = root / "tests"
    browser, links, chapters, device = (
        sorted(str(path.relative_to(root)) for path in tests.glob(pattern))
        for pattern in (IN_BROWSER, ON_LINKS, ON_CHAPTERS, ON_DEVICE)
    )
    units = [str(path.relative_to(root)) for path in sorted(tests.glob("test_*.py"))]
    units = [path for path in units if path not in {*browser, *links, *chapters, *device}]
    notebooks = [str(path.relative_to(root)) for path in sorted(root.glob("notebooks/*/*.ipynb"))]
    python = str(BIN / "python")
    pytest = [python, "-m", "pytest", "-q", "--tb=short"]
    # a file's tests stay in one process, so that what they share is made once, and a notebook has one kernel
    parallel = ["-n", "2", "--dist", "loadfile"]
    nbval = ["--nbval-lax", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT}"]
    return [
        Stage("ruff", [python, "-m", "ruff", "check", "."]),
        Stage("ruff format", [python, "-m", "ruff", "format", "--check", "."]),
        Stage("types", [python, "-m", "mypy"]),
        Stage(UNITS, [*pytest, *parallel, *units], counted=True),
        Stage("pretended GPU", [*pytest, *device], counted=True),
        Stage("rules of a chapter", [*pytest, *chapters], counted=True),
        Stage("notebooks", [*pytest, *parallel, *nbval, *notebooks], counted=True, environment=kernel_environment()),
        Stage("site build", [python, "tools/build_site.py"]),
        Stage("site in a browser", [*pytest, *browser], counted=True, needs="site build"),
        Stage("links", [*pytest, *links], counted=True, needs="site build"),
    ]


def quick_stages(root: Path = ROOT) -> list[Stage]:
    """Return the stages for between two edits: no notebook, no site, no test that is marked as slow."""
    return [
        replace(stage, command=[*stage.command, "-m", "not slow"]) if stage.name == UNITS else stage
        for stage in stages(root)
        if stage.name in QUICK
    ]


def select_stages(words: str, root: Path = ROOT) -> list[Stage]:
    """Return the stages whose name contains the words, all of them for none; a ``Problem`` names those that exist."""
    chosen = [stage for stage in stages(root) if words in stage.name]
    if not chosen:
        names = ", ".join(stage.name for stage in stages(root))
        raise Problem(f"STAGE={words}: no stage has this in its name; there are {names}")
    return chosen


def read_counts(report: Path) -> tuple[int, int, int, list[str]]:
    """Return passed, failed and skipped from pytest's JUnit report, with a line for each test that did not pass."""
    passed = failed = skipped = 0
    notes = []
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad, skip = case.find("failure"), case.find("skipped")
        if bad is None:
            bad = case.find("error")
        if bad is not None:
            failed += 1
            notes.append(f"failed: {name}")
        elif skip is not None:
            skipped += 1
            notes.append(f"skipped: {name}: {skip.get('message')}")
        else:
            passed += 1
    return passed, failed, skipped, notes


def run(stage: Stage, root: Path = ROOT) -> Outcome:
    """Run one stage; its output goes to the terminal as it comes."""
    print(f"\n=== {stage.name}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [*stage.command, f"--junitxml={report}"] if stage.counted else stage.command
        status = subprocess.run(command, cwd=root, env=stage.environment).returncode
        passed, failed, skipped = 0, 0, 0
        notes: list[str] = []
        if not stage.counted:
            passed, failed = (0, 1) if status else (1, 0)
        elif report.exists():
            passed, failed, skipped, notes = read_counts(report)
    if stage.counted and passed + failed + skipped == 0:
        # pytest did not start, or found no test: either way nothing was checked
        status, failed, notes = status or 1, 1, [f"failed: {stage.name} ran no test"]
    elif status and not failed:
        failed, notes = 1, [*notes, f"failed: {stage.name} ended with status {status}"]
    return Outcome(stage.name, status, time.monotonic() - began, passed, failed, skipped, notes)


def not_run(stage: Stage) -> Outcome:
    """Return the outcome of a stage whose ground is missing: one failure, not one for each test that stands on it."""
    return Outcome(stage.name, 1, 0, 0, 1, 0, [f"failed: {stage.name} was not run, for {stage.needs} failed"])


def table(outcomes: list[Outcome]) -> str:
    """Return the summary: the tests that did not pass, a line for each stage, and the totals."""
    lines = [note for outcome in outcomes for note in outcome.notes]
    lines += ["", f"{'stage':<26}{'result':<8}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}"]
    for outcome in outcomes:
        result = "FAILED" if outcome.status or outcome.failed else "ok"
        lines.append(
            f"{outcome.name:<26}{result:<8}{outcome.passed:>8}{outcome.failed:>8}"
            f"{outcome.skipped:>9}{outcome.seconds:>9.0f}"
        )
    totals = [sum(getattr(outcome, name) for outcome in outcomes) for name in ("passed", "failed", "skipped")]
    lines += ["", "{} passed, {} failed, {} skipped".format(*totals)]
    return "\n".join(lines)


def main() -> int:
    """Run the stages asked for and print the table."""
    parser = argparse.ArgumentParser(description="Run every check, or some of them.")
    parser.add_argument("stage", nargs="?", default="", help="words of the stages' names; all by default")
    parser.add_argument("--quick", action="store_true", help="run what takes little time")
    arguments = parser.parse_args()
    try:
        chosen = quick_stages() if arguments.quick else select_stages(arguments.stage)
    except Problem as problem:
        return report([str(problem)])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcomes: list[Outcome] = []
    try:
        for stage in chosen:
            if any(outcome.name == stage.needs and outcome.failed for outcome in outcomes):
                outcomes.append(not_run(stage))
            else:
                outcomes.append(run(stage))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    print("\n" + table(outcomes))
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
