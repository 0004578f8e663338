"""What the tests of the grading engine share: a small assignment, notebooks for it, and an ordinary user to run as."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECRET = "REFERENCE-7f3a9"  # stands in the hidden parts of the source, and nowhere else
VERSION = "0123456789ab"

SETUP = "import numpy as np"
ANSWERS = {
    "q1": "def double(x):\n    return x * 2",
    "q2": "def total(x):\n    return float(np.sum(x))",
    "q3": "answer = 42",
}
STARTERS = {
    "q1": "def double(x):\n    raise NotImplementedError",
    "q2": "def total(x):\n    raise NotImplementedError",
    "q3": "answer = None",
}
NAMES = {"q1": "double", "q2": "total", "q3": "answer"}
POINTS = {"q1": 2, "q2": 3, "q3": 1}
CASES = f"""# {SECRET}
def cases(seed):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=n),) for n in (3, 4, 5)]"""
MARKER = "# Question {}: your answer\n"


def source_text(answers=ANSWERS, cases=CASES):
    """The assignment's source, in MyST."""
    kernel = "kernelspec:\n  display_name: Python 3\n  language: python\n  name: python3"
    parts = [f"---\n{kernel}\nllmbook:\n  minutes: 5\n---\n\n# Assignment 99: Tests\n\nA text."]
    parts.append(f"```{{code-cell}} ipython3\n:llmbook: {{role: setup}}\n\n{SETUP}\n```")
    for number, (question, name) in enumerate(NAMES.items(), start=1):
        kind = "value" if question == "q3" else "function"
        about = f"role: answer, id: {question}, points: {POINTS[question]}, level: use, teaches: nothing"
        cells = [
            (f"{{{about}, name: {name}, kind: {kind}}}", STARTERS[question]),
            ("{role: solution}", f"# {SECRET}\n{answers[question]}"),
            ("{role: check}", f"assert {name}"),
            *[(f"{{role: wrong, why: reason {n}}}", STARTERS[question]) for n in range(3)],
        ]
        if kind == "function":
            cells.insert(3, ("{role: cases}", cases))
        parts.append(f"## Question {number}: {name}\n\nA task.")
        parts += [f"```{{code-cell}} ipython3\n:llmbook: {data}\n\n{code}\n```" for data, code in cells]
    return "\n\n".join(parts) + "\n"


def write_source(folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "99-tests.md"
    path.write_text(source_text())
    return path


def code_cell(code, metadata=None):
    cell = {"cell_type": "code", "source": code, "outputs": [], "execution_count": None}
    return {**cell, "metadata": {"llmbook": metadata} if metadata else {}}


def notebook(answers=None, version=None, assignment="99", bare=False, extra=()):
    """A student's notebook; questions that are not named are answered correctly. ``bare``: metadata was dropped."""
    common = {"assignment": assignment} | ({"version": version} if version else {})
    cells = [code_cell(SETUP, None if bare else {"role": "setup", **common})]
    for question, code in (ANSWERS | (answers or {})).items():
        if code is not None:
            metadata = None if bare else {"role": "answer", "id": question, **common}
            cells.append(code_cell(MARKER.format(question) + code, metadata))
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [*cells, *extra]})


def archive_bytes(files, compression=zipfile.ZIP_DEFLATED):
    """A zip archive of files by name."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return written.getvalue()


def broken_archives():
    """Archives that are damaged, or ask for what no notebook needs."""
    whole = archive_bytes({"a.ipynb": notebook()})
    damaged = bytearray(whole)
    start = 30 + len("a.ipynb")
    damaged[start : start + 8] = b"\xff" * 8
    later = bytearray(whole)
    later[later.rindex(b"PK\1\2") + 6] = 99
    return {
        "zip with a damaged stream": bytes(damaged),
        "zip of a later version": bytes(later),
        "zip that asks for gigabytes": archive_bytes({"a.ipynb": notebook()}, zipfile.ZIP_LZMA),
    }


def open_folder(folder):
    """Make a folder in which any user may write."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    return folder


def start(*command, needs=(), **options):
    """Start a Python program as an ordinary user; a machine that cannot is a clear failure."""
    from bubblewrap import as_user, find_bubblewrap
    from chapters import Problem

    try:
        find_bubblewrap()
    except Problem as problem:
        pytest.fail(str(problem), pytrace=False)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        **options.pop("env", {}),
    }
    command = as_user(sys.executable, *map(str, command), needs=needs)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd="/", env=environment, **pipes, **options)


def run(*command, **options):
    """Run a Python program as an ordinary user and return ``(status, output, errors)``."""
    process = start(*command, **options)
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, output, errors


def grade(*words, **options):
    """Run ``llmbook grade`` as an ordinary user."""
    return run("-m", "llmbook", "grade", *words, **options)


def needs_linux():
    if sys.platform != "linux":
        pytest.skip("bubblewrap is a program for Linux")
