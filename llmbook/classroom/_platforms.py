"""Whose a file is by the names that learning platforms give; the platform is decided once for a class."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Each is anchored at the left, which the student does not choose. Moodle writes a space for each _ of a name, and
# Canvas leaves none in it, so that the first _ ends it.
_PATTERNS = {
    "moodle": re.compile(r"(?P<name>[^_]+)_(?P<id>[0-9]+)_assignsubmission_[a-z]+(_.*)?", re.DOTALL),
    "canvas": re.compile(
        r"(?:(?P<name>[^_]+?)(_LATE)?_(?P<id>[0-9]+)|anon(ymous)?(_LATE)?_(?P<anon>[0-9A-Za-z]{5}))_[0-9]+_.+",
        re.DOTALL,
    ),
    "blackboard": re.compile(r"(?P<left>.+?)_attempt_(?P<when>[0-9]{4}(-[0-9]{2}){5})(_.+|\.txt)?", re.DOTALL),
    "gradescope": re.compile(r"submission_(?P<id>[0-9]+)"),
}
PLATFORMS = (*_PATTERNS, "plain")
GRADESCOPE_LIST = "submission_metadata.yml"
NOTEBOOK = re.compile(r"\.ipynb(\.txt|\.json)?$", re.IGNORECASE)  # browsers append an ending of their own
LONGEST_NAME = 100


@dataclass(frozen=True)
class Owner:
    """Whose a file is. ``when`` orders the attempts of one student; ``known`` is false where the name tells nobody."""

    id: str
    name: str
    when: str = ""
    known: bool = True


def same_form(text: str) -> str:
    """Return a name in one form of Unicode: macOS writes an accent as a character of its own."""
    return unicodedata.normalize("NFC", text)


def choose_platform(names: Sequence[str]) -> str | None:
    """Return the platform that named more than half of these files and folders, and ``"plain"`` if it is none.

    None where one cannot tell: half of the names, or more, are of platforms, but of no single one.
    """
    votes = Counter(p for name in names for p, pattern in _PATTERNS.items() if pattern.fullmatch(name))
    (best, most), *_ = [*votes.most_common(1), ("plain", 0)]
    if 2 * most > len(names):
        return best
    return None if 2 * sum(votes.values()) >= len(names) and votes else "plain"


def is_platforms(name: str) -> bool:
    """Return whether a platform makes such names of the files of single students."""
    return any(pattern.fullmatch(name) for pattern in _PATTERNS.values())


def owners(names: Sequence[str], platform: str, task: str = "") -> dict[str, Owner]:
    """Return whose each file or folder is, if ``platform`` has named all of them; see :func:`blackboard_task`."""
    if platform == "plain":
        return {name: _plain(name) for name in names}
    found = {}
    for name in names:
        match = _PATTERNS[platform].fullmatch(name)
        if match is None:
            found[name] = Owner(name[:LONGEST_NAME], name[:LONGEST_NAME], known=False)
        elif platform == "blackboard":
            who = match["left"].removeprefix(task)
            found[name] = Owner(who, who, match["when"])
        elif platform == "gradescope":
            found[name] = Owner(name, name)
        elif platform == "canvas" and match["anon"]:
            found[name] = Owner(match["anon"], match["anon"])
        else:
            found[name] = Owner(match["id"], match["name"])
    return found


def _plain(name: str) -> Owner:
    """Return the owner of a file or folder that somebody has called after the student."""
    name = NOTEBOOK.sub("", name)
    name = name[:-4] if name.lower().endswith(".zip") else name
    printable = all(unicodedata.category(c)[0] != "C" for c in name)
    known = printable and any(c.isalnum() for c in name) and len(name) <= LONGEST_NAME
    return Owner(name[:LONGEST_NAME], name[:LONGEST_NAME], known=known)


def blackboard_task(names: Sequence[str], known: str | None = None) -> str:
    """Return what stands before the student's id in all of Blackboard's names: the assignment's title and ``_``.

    A title and an id may both have a ``_``: only the names of several students tell them apart, so that a class keeps
    what was ``known`` of it before. Raises ``ValueError`` where the names tell nothing, or something else.
    """
    left = sorted({match["left"] for name in names if (match := _PATTERNS["blackboard"].fullmatch(name))})
    if not left:
        return known or ""
    if known is not None:
        if other := [name for name in left if not name.startswith(known) or name == known]:
            raise ValueError(
                f"the names of this class began with {known!r} in an earlier run, and now there is {other[0]!r}, so "
                "that the students' ids would change: choose another --out"
            )
        return known
    if len(left) < 2 and left[0].count("_") > 1:
        raise ValueError(
            f"{left[0]!r} may be a title and a student's id in several ways, and no other student's name tells: give "
            "the whole class first, or call the file after the student and say --platform plain"
        )
    parts = sorted((tuple(name.split("_")) for name in left), key=len)
    shared = 0
    while shared < len(parts[0]) - 1 and len({part[shared] for part in parts}) == 1:
        shared += 1
    return "".join(f"{part}_" for part in parts[0][:shared])


def submitters(listing: str) -> dict[str, list[Owner]]:
    """Return the students of each folder of a Gradescope export, from its ``submission_metadata.yml``.

    Every value stays the text that it is, so that a student number keeps its zeros and Ruby's own types say nothing.

    Raises:
        ValueError: the text is not YAML, or not the mapping of folders that Gradescope writes.
    """
    import yaml

    remedy = "export the submissions again, or say `--platform plain` to name them after their folders"
    try:
        folders: Any = yaml.load(listing, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{GRADESCOPE_LIST} is not YAML ({str(error).splitlines()[0]}): {remedy}") from error
    if not isinstance(folders, dict):
        raise ValueError(f"{GRADESCOPE_LIST} holds a {type(folders).__name__}, not a mapping of folders: {remedy}")
    found: dict[str, list[Owner]] = {}
    for name, entry in folders.items():
        fields = _plain_names(entry)
        people = [_told(_plain_names(person)) for person in fields.get("submitters") or ()]
        found[name] = [_person(told) for told in people if told]
    return found


def _plain_names(fields: Any) -> dict[str, Any]:
    """Return a mapping with its keys less the colon of Ruby's symbols; anything else has no keys."""
    return {str(key).lstrip(":"): value for key, value in fields.items()} if isinstance(fields, dict) else {}


def _told(fields: dict[str, Any]) -> dict[str, str]:
    """Return what is said of a person, the best identity first; YAML's words for nothing say nothing."""
    said = {key: str(fields.get(key, "")) for key in ("sid", "email", "name")}
    return {key: text for key, text in said.items() if text not in ("", "null", "~")}


def _person(told: dict[str, str]) -> Owner:
    identity = next(iter(told.values()))
    return Owner(identity, told.get("name", identity))
