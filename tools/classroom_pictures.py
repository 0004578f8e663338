"""Take the pictures of the instructor's guide: nbgrader's formgrader and a feedback page, of a class of three.

    .venv/bin/python tools/classroom_pictures.py

Everything is real: a course folder from the source, released and graded by nbgrader, opened in its own server; the
feedback is that of `llmbook grade`. The class is made up: one notebook is solved, one has plausible mistakes, one is
untouched.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

from browser import find_browser
from chapters import ROOT
from classroom import environment, overlay
from llmbook.classroom import build, source

PICTURES = ROOT / "book" / "_static"
ASSIGNMENT = "03"
SCREENS: tuple[ViewportSize, ...] = (
    {"width": 1180, "height": 500},
    {"width": 1180, "height": 450},
    {"width": 900, "height": 560},
)


def hand_in(assignment: source.Assignment, folder: Path, nested: bool) -> None:
    """Write the class's notebooks, as nbgrader wants them (``nested``) or as a platform exports them."""
    answers = build.solutions(assignment)
    mistakes = {question.id: question.wrong[2][1] for question in assignment.questions[::2]}
    for student, given in {"Ada Example": answers, "Ben Example": {**answers, **mistakes}, "Cleo Example": {}}.items():
        name = student.replace(" ", "-").lower()
        path = folder / name / assignment.name / f"{assignment.name}.ipynb" if nested else folder / f"{name}.ipynb"
        build.write_notebook(build.student_notebook(assignment, given, student), path)


def run(folder: Path, *words: str) -> None:
    """Run a module of this Python with the graders at hand; stop if it fails."""
    subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment(), check=True, capture_output=True)


def store(page: Page, name: str) -> None:
    """Write what a page shows as a small PNG."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        path = PICTURES / name
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.relative_to(ROOT))


def serve(course: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start Jupyter's server with nbgrader in a course folder; return its process and address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = environment()
    variables["JUPYTER_CONFIG_PATH"] = str(overlay() / "etc" / "jupyter")
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--no-browser"]
    command = [sys.executable, "-m", "jupyterlab", *options, "--ServerApp.root_dir=."]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    log = (course / "server.log").open("wb")
    process = subprocess.Popen(command, cwd=course, env=variables, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(180):
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
            return process, address
        except OSError:
            time.sleep(1)
    process.terminate()
    raise SystemExit(f"no server after three minutes: {(course / 'server.log').read_text()[-2000:]}")


def main() -> None:
    """Make the class, grade it twice, and store three pictures."""
    assignment = source.read(source.find_assignment(ASSIGNMENT))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        course, exported, graded = (Path(name) / part for part in ("course", "exported", "graded"))
        build.write_nbgrader(assignment, course)
        with (course / "nbgrader_config.py").open("a") as config:
            config.write(f"c.Exchange.root = {name + '/exchange'!r}\n")
        run(course, "nbgrader", "generate_assignment", assignment.name, "--create")
        run(course, "nbgrader", "release_assignment", assignment.name)
        hand_in(assignment, course / "submitted", nested=True)
        run(course, "nbgrader", "autograde", assignment.name, "--create")
        hand_in(assignment, exported, nested=False)
        own = ["--unsafe-no-sandbox"]  # the class's notebooks are ours
        run(ROOT, "llmbook", "grade", str(exported), "--assignment", ASSIGNMENT, "--out", str(graded), *own)
        server, address = serve(course)
        browser = playwright.chromium.launch(executable_path=find_browser()[0], args=["--no-sandbox"])
        try:
            shown = {
                f"{address}/formgrader": "formgrader-assignments.png",
                f"{address}/formgrader/gradebook/{assignment.name}/{assignment.name}": "formgrader-submissions.png",
                next(graded.rglob("*ben*.html")).as_uri(): "feedback.png",
            }
            for (url, picture), screen in zip(shown.items(), SCREENS, strict=True):
                page = browser.new_page(viewport=screen, reduced_motion="reduce")
                page.goto(url, wait_until="networkidle", timeout=120_000)
                page.wait_for_timeout(2000)
                store(page, picture)
        finally:
            browser.close()
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main()
