"""Find bubblewrap for the tests of the classroom: what is there, or else what can be installed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from chapters import Problem, install_debian, report


def find_bubblewrap() -> str:
    """Return the path of ``bwrap``; install it where it is missing and may be installed."""
    if path := shutil.which("bwrap"):
        return path
    install_debian("bubblewrap", "sandbox")
    if path := shutil.which("bwrap"):
        return path
    raise Problem("bubblewrap is missing: `sudo apt-get install bubblewrap` (Debian) or `sudo dnf install bubblewrap`")


def as_user(*command: str, needs: tuple[Path, ...] = ()) -> list[str]:
    """Return a command that runs another as an ordinary user: root, whom grading refuses, becomes nobody.

    Root's own folders, where its Python may lie, are closed to that user. So the command sees an empty folder in the
    place of each closed one, and in it what it needs: Python, this repository, and the paths in ``needs``.
    """
    if os.geteuid() != 0:
        return list(command)
    closed: list[str] = []
    opened: list[str] = []
    for path in (Path(sys.base_prefix), Path(sys.prefix), Path(__file__).resolve().parents[1], *needs):
        path = path.resolve()
        shut = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001]
        if shut:
            closed += [] if str(shut[0]) in closed else ["--tmpfs", str(shut[0])]
            between = [parent for parent in reversed(path.parents) if parent.is_relative_to(shut[0])][1:]
            opened += [word for parent in between for word in ("--perms", "0755", "--dir", str(parent))]
            opened += ["--bind", str(path), str(path)]
    view = [find_bubblewrap(), "--dev-bind", "/", "/", *closed, *opened, "--cap-add", "ALL"]
    return [*view, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]


def main() -> int:
    """Say which bubblewrap the tests would use."""
    try:
        print(find_bubblewrap())
    except Problem as problem:
        return report([str(problem)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
