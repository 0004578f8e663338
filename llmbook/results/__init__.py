"""What long runs recorded: JSON files beside this one, each written by a script in the repository's ``benchmarks``.

A record says which command made it, when, on what machine, with which versions and at which commit.
The command names the script as it was called at that commit.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the records that there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def recorded(name: str) -> dict[str, Any]:
    """Return a record, such as ``recorded("language_models")``.

    Raises:
        FileNotFoundError: there is no record of this name.
    """
    if name not in names():
        raise FileNotFoundError(
            f"no record {name!r}: there are {', '.join(names())} (the scripts in `benchmarks` make them)"
        )
    record: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return record
