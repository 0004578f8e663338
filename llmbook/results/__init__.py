"""What long runs recorded: JSON files beside this one, each written by a script in the repository's ``benchmarks``.

A record says which command made it, when, on what machine, with which versions and at which commit.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def recorded(name: str) -> dict[str, Any]:
    """Return a record, such as ``recorded("language_models")``.

    Raises:
        FileNotFoundError: there is no record of this name.
    """
    file = FOLDER / f"{name}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.json")))
        raise FileNotFoundError(f"no record {name!r}: there are {known} (the scripts in benchmarks/ make them)")
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record
