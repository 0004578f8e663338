"""Records are part of the package: each says where it comes from, and a wheel has them all."""

import re
import shutil
import subprocess
import sys
import zipfile
from datetime import date

import pytest

from chapters import ROOT
from llmbook import results


def runs_recorded(name):
    """A record, or the several that one file holds under names of their own."""
    record = results.recorded(name)
    return [record] if "date" in record else list(record.values())


@pytest.mark.parametrize("name", results.names())
def test_a_record_says_which_commands_made_it_when_where_with_what_and_at_which_commit(name):
    for record in runs_recorded(name):
        commands = record["commands"] if "commands" in record else [record["command"]]
        assert commands and all(re.match(r"python \S+\.py\b", command) for command in commands)
        assert date.fromisoformat(record["date"]) <= date.today()
        assert record["machine"] and record["versions"]["python"] and record["versions"]["torch"]
        assert re.fullmatch("[0-9a-f]{40}", record["commit"])


@pytest.mark.parametrize("name", ["no_such_record", "", "../results/updating"])
def test_a_record_that_is_not_there_is_one_error_that_names_those_that_are(name):
    with pytest.raises(FileNotFoundError, match=r"no record .*: there are bootstrap, .*updating") as error:
        results.recorded(name)
    assert "benchmarks" in str(error.value)


@pytest.mark.slow
def test_a_wheel_has_every_record(tmp_path):
    source = tmp_path / "source"  # a copy: building leaves folders behind, and an old one would hide what is missing
    shutil.copytree(ROOT / "llmbook", source / "llmbook", ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert results.names() and {f"llmbook/results/{name}.json" for name in results.names()} <= packed
