"""The notebooks of a class, as learning platforms hand them over: found, named, opened and taken apart without running.

Nothing here trusts a name or a byte of what students sent: archives are read in memory and never unpacked, links are
not followed, sizes are limited, and student code is text that is neither executed nor parsed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from llmbook.classroom.source import Assignment, variant

LARGEST = 20 * 2**20
MOST_MEMBERS = 10_000
_MARKER = re.compile(r"# Question (q\d+): your answer\s*$")
_STUDENT = re.compile(r"^STUDENT\s*=\s*(\"[^\"\n]*\"|'[^'\n]*')", re.MULTILINE)

# What platforms make of a student's file name. Both are anchored at the left, which the student does not choose.
_MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)(?:_(?P<file>.*))?$", re.DOTALL)
_CANVAS = re.compile(r"(?P<name>[^_]+?)(?P<late>_LATE)?_(?P<id>\d+)_\d+_(?P<file>.+)$", re.DOTALL)
_PLAIN = re.compile(r"[\w.@-]{1,100}$")


class SubmissionError(ValueError):
    """A submission that cannot be graded; the message is the reason that student and instructor read."""


@dataclass(frozen=True)
class Submission:
    """One student's file. ``member`` is its name inside the archive ``path``; ``problem`` says why there is none."""

    student: str
    name: str
    label: str
    path: Path
    member: str | None = None
    problem: str | None = None

    def content(self) -> bytes:
        """Return the notebook's bytes; ``SubmissionError`` if it is too large, a link, or no file."""
        if self.problem:
            raise SubmissionError(self.problem)
        if self.member is None:
            data = _read_file(self.path)
        else:
            with _archive(self.path) as archive:
                data = _read_member(archive, archive.getinfo(self.member))
        return _only_notebook(data) if (self.member or self.path.name).lower().endswith(".zip") else data


def find_submissions(place: Path) -> list[Submission]:
    """Return the submissions in a folder or in one zip archive, sorted by student.

    Known are the names of Moodle (``Jane Doe_123_assignsubmission_file_/work.ipynb``), of Canvas
    (``doejane_123_456_work.ipynb``), nbgrader's folders (``jane/03-attention/work.ipynb``) and plain names
    (``jane.ipynb``, ``jane/work.ipynb``). What a student wrote into the notebook never decides whose it is.
    """
    place = Path(place)
    if place.is_dir():
        found = _in_folder(place)
    elif place.is_file() and zipfile.is_zipfile(place):
        found = list(_in_archive(place))
    else:
        raise ValueError(f"{place} is neither a folder with submissions nor a zip archive of them")
    if not found:
        raise ValueError(f"{place} holds no submissions: notebooks (.ipynb), or one folder or zip for each student")
    owners: dict[str, list[Submission]] = {}
    for submission in found:
        owners.setdefault(submission.student.casefold(), []).append(submission)
    once = []
    for several in owners.values():
        # a platform exports the text or the other files that a student handed in beside the notebook
        several = [submission for submission in several if not submission.problem] or several[:1]
        first = several[0]
        if len(several) > 1:
            labels = ", ".join(submission.label for submission in several)
            first = replace(first, problem=f"{len(several)} submissions of one student: {labels}")
        once.append(first)
    return sorted(once, key=lambda submission: submission.student)


def named(found: list[Submission], roster: Path) -> list[Submission]:
    """Return submissions with the names that a CSV file (columns ``student`` and ``name``) gives their ids."""
    with roster.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        if not {"student", "name"} <= set(table.fieldnames or ()):
            raise ValueError(f"{roster}: the first line must name the columns `student` and `name`")
        names = {row["student"]: one_line(row["name"] or "") for row in table}
    return [replace(submission, name=names.get(submission.student, submission.name)) for submission in found]


def _owner(name: str) -> tuple[str, str, str | None]:
    """Return id and name of the student that a file or folder belongs to, and a problem with them."""
    for pattern in (_MOODLE, _CANVAS):
        if match := pattern.match(name):
            return match["id"], one_line(match["name"]), None
    plain = re.sub(r"\.(ipynb|zip)$", "", name, flags=re.IGNORECASE)
    if _PLAIN.match(plain) and not plain.startswith("."):
        return plain, plain, None
    shown = one_line(plain)[:100]
    return shown, shown, "its name tells no student: call it after the student, such as jane.ipynb"


def one_line(text: str) -> str:
    """Return a name in one line and without characters that control a terminal or the direction of writing."""
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split()) or "unnamed"


def _submission(name: str, path: Path, member: str | None, problem: str | None) -> Submission:
    student, who, unnamed = _owner(name)
    return Submission(student, who, one_line(name), path, member, problem or unnamed)


def _in_folder(place: Path) -> list[Submission]:
    found = []
    for path in sorted(place.iterdir()):
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        kind = path.lstat().st_mode
        chosen, problem = path, None
        if stat.S_ISLNK(kind):
            problem = "a symbolic link, which is not followed"
        elif stat.S_ISDIR(kind):
            chosen, problem = _inside(path)
        elif path.suffix.lower() not in (".ipynb", ".zip"):
            problem = f"not a notebook: {one_line(path.name)} (hand in the .ipynb file)"
        found.append(_submission(path.name, chosen, None, problem))
    return found


def _inside(folder: Path) -> tuple[Path, str | None]:
    """Return the one notebook or archive in a student's folder, and why there is none."""
    notebooks, links = [], 0
    for root, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files + folders:
            path = Path(root, name)
            links += path.is_symlink()
            if name in files and path.suffix.lower() in (".ipynb", ".zip") and not name.startswith("."):
                notebooks.append(path)
    if links:
        return folder, "a symbolic link, which is not followed"
    if len(notebooks) != 1:
        return folder, f"{len(notebooks)} notebooks in the folder: there must be one"
    return notebooks[0], None


def _in_archive(place: Path) -> Iterator[Submission]:
    """Yield the submissions of a whole class in one archive; each first folder, or file at the top, is a student."""
    owners: dict[str, list[zipfile.ZipInfo]] = {}
    with _archive(place) as archive:
        for entry in archive.infolist():
            if not entry.is_dir() and "__MACOSX" not in entry.filename:
                parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
                owners.setdefault(parts[0] if parts else "", []).append(entry)
    for name, entries in owners.items():
        problems = [problem for entry in entries if (problem := _unsafe(entry))]
        usable = [entry for entry in entries if entry.filename.lower().endswith((".ipynb", ".zip"))]
        if not problems and len(usable) != 1:
            problems = [f"{len(usable)} notebooks in the folder: there must be one"]
            if not usable and len(entries) == 1:
                problems = [f"not a notebook: {one_line(name)} (hand in the .ipynb file)"]
        member = usable[0].filename if usable and not problems else None
        yield _submission(name, place, member, problems[0] if problems else None)


def _unsafe(entry: zipfile.ZipInfo) -> str | None:
    """Say why an entry of an archive is refused."""
    name = entry.filename
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
        return f"the archive has a path that leads out of it: {one_line(name)[:100]}"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "the archive has a symbolic link, which is not followed"
    return None


def _archive(source: Any) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise SubmissionError("not a zip archive, whatever its name says") from error
    if len(archive.infolist()) > MOST_MEMBERS:
        raise SubmissionError(f"the archive has more than {MOST_MEMBERS} files")
    return archive


def _read_file(path: Path) -> bytes:
    """Read a regular file that is no link and not too large."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise SubmissionError(f"the file cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SubmissionError("not a file")
        return _bounded(file.read(LARGEST + 1))


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Unpack one file, and no more of it than is allowed, whatever size the archive claims."""
    try:
        with archive.open(entry) as file:
            return _bounded(file.read(LARGEST + 1))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError) as error:
        raise SubmissionError("the archive is damaged or locked with a password") from error


def _bounded(data: bytes) -> bytes:
    if len(data) > LARGEST:
        raise SubmissionError(f"larger than {LARGEST // 2**20} MiB: clear the outputs and hand in again")
    return data


def _only_notebook(data: bytes) -> bytes:
    """Return the one notebook in a student's own archive."""
    with _archive(io.BytesIO(data)) as archive:
        entries = [e for e in archive.infolist() if not e.is_dir() and "__MACOSX" not in e.filename]
        for entry in entries:
            if problem := _unsafe(entry):
                raise SubmissionError(problem)
        notebooks = [entry for entry in entries if entry.filename.lower().endswith(".ipynb")]
        if len(notebooks) != 1:
            raise SubmissionError(f"{len(notebooks)} notebooks in the archive: there must be one")
        return _read_member(archive, notebooks[0])


def answers(content: bytes, assignment: Assignment, student: str, *, any_version: bool = False) -> dict[str, str]:
    """Return the code of each question's answer cell; ``SubmissionError`` if it is not certain which that is.

    A cell is known by its metadata, or by its first line where a platform has dropped them. Two copies with the same
    code count as one. ``student`` is the name that the learning platform gives, for assignments with variants.
    """
    cells = _cells(content)
    found: dict[str, list[str]] = {question.id: [] for question in assignment.questions}
    problems: list[str] = []
    names: list[str] = []
    for cell in cells:
        source, data = _source(cell), _ours(cell)
        if cell.get("cell_type") != "code":
            continue
        marker = _MARKER.match(source.lstrip().partition("\n")[0])
        named = str(data.get("id")) if data.get("role") == "answer" else None
        if named and marker and named != marker[1]:
            problems.append(f"a cell is {_short(named)} by its metadata and {marker[1]} by its first line")
        elif identity := named or (marker[1] if marker else None):
            if identity in found:
                found[identity].append(source)
            else:
                problems.append(f"question {_short(identity)} is not in this assignment: was a cell renamed?")
        elif name := _STUDENT.search(source):
            names.append(name[1][1:-1])
    _check_origin([_ours(cell) for cell in cells], assignment, any_version)
    for identity, sources in found.items():
        if not sources:
            problems.append(f"question {identity} is missing: its answer cell was deleted or renamed")
        elif len(set(sources)) > 1:
            problems.append(f"question {identity} stands {len(sources)} times in the notebook, with different answers")
    if assignment.has_variants:
        problems += _name_problems(names, student)
    if problems:
        raise SubmissionError("; ".join(problems[:8]))
    return {identity: sources[0] for identity, sources in found.items()}


def _name_problems(names: list[str], student: str) -> list[str]:
    """Say what is wrong with the name in the set-up cell, from which the student's data are drawn."""
    written = {name.strip() for name in names}
    if len(written) != 1 or "" in written:
        return ["the set-up cell has no name: STUDENT must be filled in once"]
    if variant(*written) != variant(student):
        return [
            f"the set-up cell names {_short(*written)}, but the submission is {_short(student)}'s "
            "(instructors: --names gives ids their names)"
        ]
    return []


def _cells(content: bytes) -> list[dict[str, Any]]:
    """Return a notebook's cells; ``SubmissionError`` if the bytes are no notebook."""
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise SubmissionError("not a notebook: the file is no JSON") from error
    if not isinstance(notebook, dict) or "nbformat" not in notebook:
        raise SubmissionError("not a notebook: the file has no nbformat")
    cells = notebook.get("cells")
    if notebook["nbformat"] != 4 or not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise SubmissionError("not a notebook of format 4: open it in JupyterLab, save it and hand it in again")
    return cells


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise SubmissionError("not a notebook: a cell's source is no text")
    return source.encode("utf-8", "replace").decode()


def _ours(cell: dict[str, Any]) -> dict[str, Any]:
    metadata = cell.get("metadata")
    ours = metadata.get("llmbook") if isinstance(metadata, dict) else None
    return ours if isinstance(ours, dict) else {}


def _check_origin(metadata: list[dict[str, Any]], assignment: Assignment, any_version: bool) -> None:
    """Refuse the notebook of another assignment, or one that was made from another version of the source."""
    for data in metadata:
        other = data.get("assignment", assignment.id)
        if other not in (assignment.id, assignment.name):
            raise SubmissionError(f"the notebook of assignment {_short(other)}, not of {assignment.id}")
        version = data.get("version", assignment.version)
        if version != assignment.version and not any_version:
            raise SubmissionError(
                f"made from version {_short(version)} of the assignment, and this is {assignment.version}: hand in on "
                "the current notebook (instructors: --any-version accepts it)"
            )


def _short(value: object) -> str:
    return one_line(str(value))[:60]
