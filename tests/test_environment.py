"""Three files describe one environment: the ranges (pyproject.toml), the lock (requirements.txt), conda's file."""

import ast
import fcntl
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import bootstrap
import chapters
import colab
import lock
from chapters import ROOT
from llmbook.corpora import _catalogs, installed

COLAB_PYTHON = "3.12"


def read_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read_lock(path: Path = lock.LOCK) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def read_conda() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def pins(lines: list[str]) -> dict[str, str]:
    """Return the version of each package; anything but an exact pin is an error."""
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.]+)(?:; sys_platform == \"linux\")?", line)
            assert match, f"requirements.txt: {line!r} is not of the form name==version (without build label or URL)"
            found[canonicalize_name(match[1])] = match[2]
    return found


def disagreements(pyproject: dict[str, Any], lines: list[str], conda: dict[str, Any]) -> list[str]:
    """Return a line for each point on which the three do not describe the same environment."""
    problems = []
    versions = pins(lines)
    project = pyproject["project"]
    wanted = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for name, extra in project["optional-dependencies"].items():
        if name != "classroom":
            wanted += extra
    for line in wanted:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            problems.append(f"pyproject.toml: {line!r} is no requirement")
            continue
        pin = versions.get(canonicalize_name(requirement.name))
        if pin is None:
            problems.append(f"{requirement.name} is in pyproject.toml and has no pin in requirements.txt: `make lock`")
        elif not requirement.specifier.contains(pin, prereleases=True):
            problems.append(f"{requirement.name}=={pin} is outside {requirement.specifier} of pyproject.toml")
    supported = SpecifierSet(project["requires-python"])
    for version in (bootstrap.PYTHON_VERSION, COLAB_PYTHON):
        if not supported.contains(f"{version}.0"):
            problems.append(f"requires-python {supported} leaves out {version}")
    for line in conda["dependencies"]:
        if isinstance(line, dict):
            if line != {"pip": ["-r requirements.txt", "-e ."]}:
                problems.append(f"environment.yml: {line} is not the lock and the package")
        elif line not in (f"python={bootstrap.PYTHON_VERSION}", "pip"):
            problems.append(f"environment.yml: {line} is not Python {bootstrap.PYTHON_VERSION} or pip")
    return problems


def test_three_files_agree():
    assert disagreements(read_pyproject(), read_lock(), read_conda()) == []


def test_graders_have_a_lock_of_their_own_that_leaves_the_readers_one_alone():
    graders, readers = pins(read_lock(lock.CLASSROOM)), pins(read_lock())
    for line in read_pyproject()["project"]["optional-dependencies"]["classroom"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains((readers | graders)[canonicalize_name(requirement.name)])
    assert not set(graders) & set(readers)


def test_readers_have_no_widgets():
    """With ipywidgets every progress bar of a stored notebook would be one, and ask another host for its script."""
    assert "ipywidgets" not in pins(read_lock())


def test_torch_is_the_plain_release():
    assert "torch==2.13.0" in read_lock()
    assert not [line for line in read_lock() if line.startswith("-") or "://" in line]


def test_colab_keeps_its_own_torch():
    torch = next(Requirement(line) for line in read_pyproject()["project"]["dependencies"] if line.startswith("torch"))
    assert {part.operator for part in torch.specifier} == {">="}


def test_installed_packages_are_the_locked_ones():
    wrong = []
    for name, pin in pins(read_lock()).items():
        try:
            installed = Version(importlib.metadata.version(name)).public
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != str(Version(pin)):
            wrong.append(f"{name}: installed {installed}, locked {pin}")
    assert wrong == []


def test_locked_packages_admit_the_python_of_debian():
    too_new = []
    for name in pins(read_lock()):
        supported = importlib.metadata.metadata(name).get("Requires-Python") or ""
        if not SpecifierSet(supported).contains(lock.OLDEST_PYTHON):
            too_new.append(f"{name} needs Python {supported}")
    assert too_new == []


def test_workflow_has_the_python_of_the_lock():
    workflow = (ROOT / ".github/workflows/book.yml").read_text(encoding="utf-8")
    assert set(re.findall(r'python-version: "(.+)"', workflow)) == {bootstrap.PYTHON_VERSION}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p, pinned, c: pinned.remove(next(line for line in pinned if line.startswith("numpy=="))),
            "numpy is in pyproject.toml and has no pin",
        ),
        (lambda p, pinned, c: p["project"]["dependencies"].append("torch<2.13"), "torch==2.13.0 is outside <2.13"),
        (
            lambda p, pinned, c: p["project"]["optional-dependencies"]["test"].append("new>=1"),
            "new is in pyproject.toml",
        ),
        (lambda p, pinned, c: p["project"].update({"requires-python": ">=3.11,<3.12"}), "leaves out 3.12"),
        (lambda p, pinned, c: c["dependencies"].__setitem__(0, "python=3.12"), "python=3.12 is not Python 3.11"),
        (lambda p, pinned, c: c["dependencies"].append("numpy=2.4.6"), "numpy=2.4.6 is not Python 3.11 or pip"),
        (lambda p, pinned, c: c["dependencies"][2]["pip"].append("torch"), "is not the lock and the package"),
    ],
)
def test_disagreement_is_seen(spoil, message):
    three = read_pyproject(), read_lock(), read_conda()
    spoil(*three)
    assert any(message in problem for problem in disagreements(*three))


@pytest.mark.parametrize("line", ["numpy>=2", "numpy", "torch==2.13.0+cpu", "torch @ file:///x.whl", "-e ."])
def test_only_exact_pins_are_a_lock(line):
    with pytest.raises(AssertionError, match="is not of the form name==version"):
        pins([line])


# --- what readers import, with the package's own dependencies only (Colab) -----------------------------------------

# What a reader of the chapters can do without, and the extra that brings it; the package says what to install.
OPTIONAL = {
    "datatrove": "ch07",
    "jupytext": "classroom",
    "lm_eval": "ch17",
    "nbformat": "classroom",
    "nbgrader": "classroom",
    "triton": "triton",
}


def imports(source: str) -> set[str]:
    """Return the top-level modules that a program imports, but for the standard library and the package itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"llmbook"}


@functools.cache
def imported() -> dict[str, set[str]]:
    """Return the modules that each chapter, and each file of the package, imports."""
    found = {}
    for chapter in chapters.find_chapters():
        cells = [cell.source for cell in chapters.code_cells(chapters.read_manuscript(chapter))]
        found[chapter.name] = imports(re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", "\n".join(cells)))
        if any("show_attention(" in source for source in cells):
            found[chapter.name].add("bertviz")  # its scripts, which `llmbook.viz` reads
    for path in sorted((ROOT / "llmbook").rglob("*.py")):
        found[str(path.relative_to(ROOT))] = imports(path.read_text(encoding="utf-8"))
    return found


@functools.cache
def distributions() -> dict[str, set[str]]:
    return {
        module: set(map(canonicalize_name, names))
        for module, names in importlib.metadata.packages_distributions().items()
    }


def test_readers_get_every_import_with_what_the_set_up_cell_installs():
    """The package with the chapter's own extra: what a chapter imports, and what the package does at any time."""
    core, lacking = colab.brought(read_pyproject()["project"]["dependencies"]), {}
    own = {name: set() for name in imported()}
    for chapter in chapters.find_chapters():
        own[chapter.name] = colab.brought(chapters.own_requirements(chapter)[1])
    for place, modules in imported().items():
        optional = set(OPTIONAL) if place.startswith("llmbook/") else set()
        missing = {module for module in modules if not (core | own[place]) & distributions().get(module, set())}
        if missing - optional:
            lacking[place] = sorted(missing - optional)
    assert lacking == {}, "add the package to the dependencies, or to the extra of the chapter, in pyproject.toml"


def test_extras_of_chapters_are_used_and_have_one_range_each():
    extras = read_pyproject()["project"]["optional-dependencies"]
    by_extra = {chapters.own_requirements(chapter)[0]: chapter for chapter in chapters.find_chapters()}
    assert {name for name in extras if re.fullmatch(r"ch\d\d", name)} == set(by_extra) - {""}
    lines: dict[str, set[str]] = {}
    for chapter in by_extra.values():
        for line in chapters.own_requirements(chapter)[1]:
            lines.setdefault(canonicalize_name(Requirement(line).name), set()).add(line)
    assert {name: found for name, found in lines.items() if len(found) > 1} == {}


def test_optional_imports_are_needed_and_have_an_extra():
    extras = read_pyproject()["project"]["optional-dependencies"]
    assert set(OPTIONAL) <= set().union(*imported().values())
    assert {
        name: extra for name, extra in OPTIONAL.items() if canonicalize_name(name) not in colab.brought(extras[extra])
    } == {}


def test_site_has_every_package_that_a_corpus_reads():
    """Then nothing is fetched where the book is made; a reader without them fetches the pinned archives."""
    extras = read_pyproject()["project"]["optional-dependencies"]
    there = colab.brought([*read_pyproject()["project"]["dependencies"], *extras["book"]])
    read = {package.name for package in (*installed.PACKAGES, *_catalogs.PACKAGES)} - {installed.STANDARD_LIBRARY}
    assert {name for name in read if canonicalize_name(name) not in there} == set()


def test_extras_of_a_requirement_count_only_where_asked_for():
    assert "numpy" in colab.brought(["torch", "numpy"]) and "jinja2" in colab.brought(["torch"])
    assert "mypy" not in colab.brought(["llmbook"]) and "mypy" in colab.brought(["llmbook[test]"])


# --- bootstrap: a small package set in place of the real one --------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A project with an empty lock and no dependencies."""
    root = tmp_path / "project"
    (root / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/bootstrap.py", root / "tools")
    (root / "requirements.txt").write_text("# nothing\n", encoding="utf-8")
    (root / "pyproject.toml").write_text(
        '[project]\nname = "small"\nversion = "1"\n[tool.setuptools]\npy-modules = []\n', encoding="utf-8"
    )
    return root


def run(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": "", **variables}
    command = [sys.executable, str(root / "tools/bootstrap.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def stand_in(root: Path) -> None:
    """Make a `.venv` that looks finished, without the seconds that a real one takes."""
    (root / ".venv/bin").mkdir(parents=True)
    (root / ".venv/bin/python").symlink_to(sys.executable)
    (root / ".venv/pyvenv.cfg").write_text(f"version = {bootstrap.PYTHON_VERSION}.7\ncommand = venv {root}/.venv\n")
    (root / ".venv" / bootstrap.STAMP).write_text(bootstrap.describe_lock(root))


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    (line,) = result.stderr.splitlines()
    return line


def fake_python(folder: Path, version: str) -> Path:
    """Return an interpreter that says it is of another version."""
    program = folder / "python-of-another-version"
    program.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def test_finished_environment_is_left_alone_at_once(tree):
    stand_in(tree)
    before = sorted(tree.rglob("*"))
    # what takes time are pip and other interpreters: none is started
    script = (
        "import runpy, sys\n"
        "def look(event, arguments):\n    if event == 'subprocess.Popen': print('starts', arguments[:2])\n"
        "sys.addaudithook(look)\nrunpy.run_path(sys.argv[1], run_name='__main__')"
    )
    command = [sys.executable, "-c", script, str(tree / "tools/bootstrap.py")]
    result = subprocess.run(command, env={**os.environ, "PYTHON": ""}, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize(("name", "line"), [("requirements.txt", "six==1.17.0\n"), ("pyproject.toml", 'x = ["six"]\n')])
def test_change_of_the_lock_is_noticed(tree, name, line):
    stand_in(tree)
    assert bootstrap.is_current(tree)
    path = tree / name
    path.write_text(line + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert not bootstrap.is_current(tree)
    assert bootstrap.is_complete(tree)


def test_copied_environment_is_not_trusted(tree):
    stand_in(tree)
    moved = tree.rename(tree.with_name("moved"))
    assert not bootstrap.is_current(moved)
    assert not bootstrap.is_complete(moved)


def test_settings_of_tools_do_not_touch_the_environment(tree):
    stand_in(tree)
    with (tree / "pyproject.toml").open("a", encoding="utf-8") as pyproject:
        pyproject.write("[tool.ruff]\nline-length = 100\n")
    assert bootstrap.is_current(tree)


def test_unsupported_python_is_named(tree):
    python = fake_python(tree.parent, "3.9")
    line = one_line(run(tree, PYTHON=str(python)))
    assert f"PYTHON={python} is Python 3.9; the lock is for Python 3.11" in line
    assert "does not run; the lock is for Python 3.11" in one_line(run(tree, PYTHON="/no/such/python"))
    assert not (tree / ".venv").exists()


def test_missing_venv_module_is_named_or_installed(tree, monkeypatch, capfd):
    tools = tree.parent / "bin"
    tools.mkdir()
    python = tools / "python"
    python.write_text(f"#!/bin/sh\ntest -e {tools}/installed\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(bootstrap.Problem, match=r"cannot make virtual environments: install python3\.11-venv"):
        bootstrap.ensure_venv_module(str(python))
    apt = tools / "apt-get"
    apt.write_text(f"#!/bin/sh\ntest $1 = update || : > {tools}/installed\n", encoding="utf-8")
    apt.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bootstrap.ensure_venv_module(str(python))
    assert capfd.readouterr().out == f"{python} has no venv module: installing python3.11-venv with apt-get\n"


def test_full_disk_is_named(tree, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    with pytest.raises(bootstrap.Problem, match=r"has 1\.0 GiB free, the environment needs 6 GiB: free some space"):
        bootstrap.check_disk(tree)


@pytest.mark.slow
def test_failing_pip_is_one_line_and_the_next_run_repairs(tree):
    (tree / "requirements.txt").write_text("no-such-package-of-this-book==1.0\n", encoding="utf-8")
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    line = one_line(run(tree, **offline))
    assert line.startswith("error: pip failed: ERROR: No matching distribution found for no-such-package-of-this-book")
    assert not (tree / ".venv" / bootstrap.STAMP).exists()
    (tree / ".venv/left-over").touch()
    run(tree, **offline)
    assert not (tree / ".venv/left-over").exists()


@pytest.mark.slow
def test_second_process_waits_for_the_first(tree):
    stand_in(tree)
    (tree / ".venv" / bootstrap.STAMP).unlink()
    with (tree / "tools/bootstrap.py").open() as own:
        fcntl.flock(own, fcntl.LOCK_EX)
        environment = {**os.environ, "PYTHON": ""}
        command = [sys.executable, str(tree / "tools/bootstrap.py")]
        second = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline() == "waiting: another process is installing .venv\n"
        (tree / ".venv" / bootstrap.STAMP).write_text(bootstrap.describe_lock(tree))
    assert second.wait(30) == 0
