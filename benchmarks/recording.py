"""What the benchmarks share: a chapter's own code, what a record says of the run that made it, and writing it."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import jupytext
import torch

from llmbook.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "numpy", "triton")


def run_engine(chapter: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run a chapter's cells tagged `engine` in a namespace that has their imports; return it.

    Nothing is defined twice: a recorded run is the page's own code. ``engine_sha256`` says which version of it.
    """
    cells = jupytext.read(ROOT / "book" / "en" / f"{chapter}.md").cells
    sources = [cell.source for cell in cells if "engine" in cell.metadata.get("tags", [])]
    for source in sources:
        exec(source, namespace)  # our own manuscript
    namespace["engine_sha256"] = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    return namespace


def origin() -> dict[str, Any]:
    """Return command, date, commit, machine and versions; call it at the start, since the repository may move on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    machine = f"{os.cpu_count()} shared {platform.machine()} cores"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": machine,
        "versions": versions,
    }


def earlier(path: Path, engine_sha256: str) -> dict[str, Any]:
    """Return the record that a file holds if the same version of the chapter's cells made it, else an empty one."""
    record = json.loads(path.read_text()) if path.exists() else {}
    return record if record.get("engine_sha256") == engine_sha256 else {}


def go_on(path: Path, record: dict[str, Any], engine_sha256: str) -> list[dict[str, Any]]:
    """Return the runs of :func:`earlier`; the record names the engine and, in place of its command, all commands."""
    kept = earlier(path, engine_sha256)
    record |= {"engine_sha256": engine_sha256, "commands": [*kept.get("commands", []), record.pop("command")]}
    return kept.get("runs", [])


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record in one go and say where it is."""
    write_whole(path, json.dumps(record, indent=1) + "\n")
    print(path)
