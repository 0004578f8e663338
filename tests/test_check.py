"""What `make test` reports: counts, names and reasons from every stage, and a failure never lost."""

import re
import subprocess
import sys

import pytest

import check
from chapters import ROOT, Problem


def pytest_stage(folder, text: str) -> check.Stage:
    (folder / "test_it.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return check.Stage("a stage", command, counted=True)


@pytest.mark.slow
def test_counts_and_reasons_are_read(tmp_path):
    text = (
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert False\n"
        "@pytest.mark.skip(reason='no GPU')\ndef test_c(): pass\n"
        "@pytest.fixture\ndef broken(): raise OSError\n"
        "def test_d(broken): pass\n"
    )
    outcome = check.run(pytest_stage(tmp_path, text))
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 2, 1)
    assert outcome.notes == ["failed: test_it::test_b", "skipped: test_it::test_c: no GPU", "failed: test_it::test_d"]
    assert outcome.status


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "import no_such_module_of_this_book\n"])
def test_stage_without_tests_fails(tmp_path, text):
    outcome = check.run(pytest_stage(tmp_path, text))
    assert (outcome.passed, outcome.failed) == (0, 1) and outcome.status


def test_other_commands_count_one(tmp_path):
    good = check.run(check.Stage("good", [sys.executable, "-c", ""]))
    bad = check.run(check.Stage("bad", [sys.executable, "-c", "raise SystemExit(3)"]))
    assert (good.passed, good.failed, good.status) == (1, 0, 0)
    assert (bad.passed, bad.failed, bad.status) == (0, 1, 3)


def test_missing_ground_is_one_failure():
    stage = next(stage for stage in check.stages() if stage.needs)
    outcome = check.not_run(stage)
    assert (outcome.failed, outcome.notes) == (1, [f"failed: {stage.name} was not run, for site build failed"])


def test_table_ends_in_the_totals():
    outcomes = [
        check.Outcome("ruff", 0, 1.2, 1, 0, 0, []),
        check.Outcome("notebooks", 1, 99.0, 40, 2, 1, ["skipped: x: why"]),
    ]
    lines = check.table(outcomes).splitlines()
    assert lines[0] == "skipped: x: why"
    assert lines[-1] == "41 passed, 2 failed, 1 skipped"
    assert any(re.match(r"notebooks +FAILED +40 +2 +1 +99$", line) for line in lines)


def test_every_test_file_and_notebook_belongs_to_a_stage():
    words = [word for stage in check.stages() for word in stage.command]
    files = [*(ROOT / "tests").glob("test_*.py"), *ROOT.glob("notebooks/*/*.ipynb")]
    assert [words.count(str(path.relative_to(ROOT))) for path in files] == [1] * len(files)


def test_stages_are_chosen_by_words_of_their_names():
    assert [stage.name for stage in check.select_stages("site")] == ["site build", "site in a browser"]
    assert check.select_stages("") == check.stages()
    with pytest.raises(Problem, match=r"STAGE=sight: no stage has this in its name; there are ruff, .*, links$"):
        check.select_stages("sight")


def test_quick_stages_leave_out_the_slow():
    stages = {stage.name: stage.command for stage in check.quick_stages()}
    assert list(stages) == list(check.QUICK)
    assert stages[check.UNITS][-2:] == ["-m", "not slow"]
    assert "tools/build_site.py" not in str(stages) and ".ipynb" not in str(stages)


def test_ci_calls_make_test():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert script == ["#!/bin/bash", "exec make test"]


def test_help_lists_every_target():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make (\w+)", listed, re.MULTILINE)) == targets
