"""The graders that instructors have (nbgrader, otter-grader), in a folder beside the readers' environment."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from chapters import ROOT, Problem, report

LOCK = ROOT / "requirements-classroom.txt"
FOLDER = ROOT / "_build" / "classroom"


def overlay() -> Path:
    """Return the folder for `PYTHONPATH`, installed if it is not there in the version of the lock."""
    finished = FOLDER / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):
        if not finished.exists():
            new = FOLDER / "new"
            shutil.rmtree(new, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(new)]
            pip = subprocess.run([*command, "--requirement", str(LOCK)], capture_output=True, text=True)
            if pip.returncode != 0:
                last = (pip.stdout + pip.stderr).strip().splitlines()[-1:] or ["no output"]
                raise Problem(f"pip failed: {last[0]} - check network and disk space, then run again")
            new.rename(finished)
    return finished


def environment() -> dict[str, str]:
    """Return the variables with which a Python of `.venv` finds the graders and their programs."""
    folder = overlay()
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
        # templates of nbconvert, pages of the formgrader
        "JUPYTER_PATH": str(folder / "share" / "jupyter"),
    }


def main() -> int:
    """Print the folder."""
    try:
        print(overlay())
    except Problem as problem:
        return report([str(problem)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
