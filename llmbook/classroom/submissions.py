"""The notebooks of a class, as learning platforms hand them over: found, named, opened and taken apart without running.

Nothing here trusts a name or a byte of what students sent: archives are read in memory and never unpacked, links are
not followed, sizes are limited, and student code is text that is neither executed nor parsed. What cannot be read is a
submission with a reason, and never ends a class.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmbook.classroom._platforms import (
    GRADESCOPE_LIST,
    NOTEBOOK,
    PLATFORMS,
    Owner,
    blackboard_task,
    choose_platform,
    is_platforms,
    owners,
    same_form,
    submitters,
)
from llmbook.classroom._tables import old_encoding, one_line, read_table
from llmbook.classroom.source import Assignment, Question, variant

LARGEST = 20 * 2**20
MOST_MEMBERS = 10_000
MOST_LISTS = 1_000_000
BLIND = "Participant"  # what Moodle calls everybody where marking is blind
_MARKER = re.compile(r"^[ \t]*#[ \t]*Question[ \t]+(q[0-9]+)[ \t]*:[ \t]*your answer[ \t]*$", re.MULTILINE)
_STUDENT = re.compile(
    r"^STUDENT[ \t]*(?::[^=\n]{0,60})?=[ \t]*\(?[ \t]*"
    r"(\"{3}[^\"\\\n]*\"{3}|'{3}[^'\\\n]*'{3}|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')",
    re.MULTILINE,
)
# folders and files that operating systems and editors leave behind; so is whatever begins with a dot
_DEBRIS = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir"}
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)  # LZMA asks for gigabytes in a few bytes


class SubmissionError(ValueError):
    """A submission that cannot be graded; the message is the reason that student and instructor read."""


@dataclass(frozen=True)
class Submission:
    """One student's file. ``member`` is its name inside the archive ``path``; ``problem`` says why there is none.

    ``drawn_for`` is the name from which a student's data were drawn, where it is not ``name`` (see :func:`own_data`).
    ``task`` is what Blackboard writes before the student's id in this class.
    """

    student: str
    name: str
    label: str
    path: Path
    member: str | None = None
    problem: str | None = None
    platform: str = "plain"
    drawn_for: str | None = None
    task: str = ""

    @property
    def data_name(self) -> str:
        """The name that the student's own data belong to."""
        return self.drawn_for or self.name

    def content(self) -> bytes:
        """Return the notebook's bytes; ``SubmissionError`` if it is too large, a link, no file, or damaged."""
        if self.problem:
            raise SubmissionError(self.problem)
        try:
            if self.member is None:
                data = _read_file(self.path)
            else:
                with _archive(self.path) as archive:
                    data = _read_member(archive, archive.getinfo(self.member))
            return _only_notebook(data) if (self.member or self.path.name).lower().endswith(".zip") else data
        except SubmissionError:
            raise
        except Exception as error:  # whatever bytes do to a library
            raise SubmissionError(f"the file cannot be read: {type(error).__name__}") from error


@dataclass(frozen=True)
class _File:
    """A file or folder of a class, by the parts of its name below the class's folder."""

    parts: tuple[str, ...]
    path: Path
    member: str | None = None
    problem: str | None = None
    folder: bool = False

    @property
    def usable(self) -> bool:
        """Whether it may be or hold a notebook."""
        return not self.folder and bool(NOTEBOOK.search(self.parts[-1]) or self.parts[-1].lower().endswith(".zip"))


def find_submissions(place: Path, platform: str | None = None, task: str | None = None) -> list[Submission]:
    """Return the submissions in a folder or in one zip archive, sorted by student.

    Known are the names of Moodle (``Jane Doe_123_assignsubmission_file_/work.ipynb``), of Canvas
    (``doejane_123_456_work.ipynb``), of Blackboard (``Task_jane_attempt_2026-03-01-12-30-00_work.ipynb``), exports of
    Gradescope, nbgrader's folders (``jane/03-attention/work.ipynb``) and plain names (``jane.ipynb``).
    What a student wrote into the notebook never decides whose it is, nor does the student's part of a file name.

    Args:
        place: the folder or archive.
        platform: who named the files, one of ``"moodle"``, ``"canvas"``, ``"blackboard"``, ``"gradescope"``,
            ``"plain"``; without it, whoever named most of them.
        task: what Blackboard wrote before the ids when this class was first read, ``Task_``; without it, what the names
            of several students have in common.

    Raises:
        ValueError: there is nothing to grade, the names are of several platforms, or from Blackboard's names one cannot
            tell where the student's id begins.
    """
    place = Path(place)
    if platform is not None and platform not in PLATFORMS:
        raise ValueError(f"platform {platform!r}; known: {', '.join(PLATFORMS)}")
    if place.is_dir():
        files = _of_class(_in_folder(place))
    elif place.is_file() and zipfile.is_zipfile(place):
        files = _of_class(_in_archive(place))
    else:
        raise ValueError(f"{place} is neither a folder with submissions nor a zip archive of them")
    found = _submissions(files, platform, place, task)
    if not found:
        raise ValueError(f"{place} holds no submissions: notebooks (.ipynb), or one folder or zip for each student")
    by_student: dict[str, list[Submission]] = {}
    for submission in found:
        by_student.setdefault(submission.student.lower(), []).append(submission)
    return sorted((_one(several) for several in by_student.values()), key=lambda submission: submission.student)


def _one(several: list[Submission]) -> Submission:
    """Return a student's one submission: beside it, a platform exports the texts and other files they handed in."""
    others = ("not a notebook", "0 notebooks")
    several = [s for s in several if not (s.problem or "").startswith(others)] or several[:1]
    if len(several) == 1:
        return several[0]
    labels = ", ".join(submission.label for submission in several)
    return replace(several[0], problem=f"{len(several)} submissions of one student: {labels}")


def _submissions(files: list[_File], platform: str | None, place: Path, task: str | None) -> list[Submission]:
    """Return what each first folder, or file at the top, holds; whose it is, the names of all of them decide."""
    groups: dict[str, list[_File]] = {}
    for file in files:
        groups.setdefault(file.parts[0], []).append(file)
    students: dict[str, list[Owner]] = {}
    if platform in (None, "gradescope") and GRADESCOPE_LIST in groups:
        students = submitters(_text(groups.pop(GRADESCOPE_LIST)[0]))
    platform = platform or choose_platform([name for name, group in groups.items() if _may_hold(group)])
    if platform is None:
        raise ValueError(
            f"the names in {place} are of several kinds: say who gave them with --platform ({', '.join(PLATFORMS)}), "
            "or grade them one folder after the other"
        )
    found = []
    task = blackboard_task(list(groups), task) if platform == "blackboard" else ""
    who = owners(list(groups), platform, task)
    latest: dict[str, str] = {}
    for owner in who.values():
        latest[owner.id] = max(owner.when, latest.get(owner.id, ""))
    for name, group in groups.items():
        path, member, problem = _choose(group)
        if who[name].when < latest[who[name].id]:
            continue  # an earlier attempt of the same student
        if not who[name].known:
            problem = problem or (
                "its name tells no student: call it after the student, such as jane.ipynb"
                if platform == "plain"
                else f"its name is not one that {platform.capitalize()} gives, which names this class's files"
            )
        for owner in students.get(name) or [who[name]]:
            shown = (one_line(owner.id), one_line(owner.name), one_line(name))
            found.append(Submission(*shown, path, member, problem, platform, task=task))
    return found


def _may_hold(group: list[_File]) -> bool:
    return any(file.usable or file.folder for file in group)


def _choose(group: list[_File]) -> tuple[Path, str | None, str | None]:
    """Return the one notebook or archive that a student handed in, or why there is none."""
    first = group[0]
    for file in group:
        if file.problem:
            return first.path, None, file.problem
    usable = [file for file in group if file.usable]
    if len(usable) == 1:
        return usable[0].path, usable[0].member, None
    others = [file for file in group if not file.folder]
    if not usable and len(others) == 1:
        return first.path, None, f"not a notebook: {one_line(others[0].parts[-1])} (hand in the .ipynb file)"
    return first.path, None, f"{len(usable)} notebooks in the folder: there must be one"


def _text(file: _File) -> str:
    """Return a platform's own list; empty if it cannot be read."""
    try:
        content = Submission("", "", "", file.path, file.member, file.problem).content()
    except SubmissionError:
        return ""
    return content.decode("utf-8-sig", "replace")


def _of_class(files: list[_File]) -> list[_File]:
    """Return the files below the folder that holds a class's submissions, where it lies in another or in a zip."""
    for _ in range(3):
        tops = {file.parts[0] for file in files if file.usable or file.folder}
        if len(tops) != 1 or is_platforms(*tops):
            return files
        (top,) = tops
        if any(file.parts == (top,) and file.member is None and top.lower().endswith(".zip") for file in files):
            (archive,) = [file for file in files if file.parts == (top,)]
            try:
                inner = _of_class(_in_archive(archive.path))
            except SubmissionError:
                return files
        else:
            inner = [replace(f, parts=f.parts[1:]) for f in files if f.parts[0] == top and len(f.parts) > 1]
        if not _is_class(inner):
            return files
        files = [*inner, *(file for file in files if file.parts[0] != top)]
    return files


def _is_class(files: list[_File]) -> bool:
    """Return whether these are the submissions of several students, and not the files of one."""
    tops = {file.parts[0] for file in files if file.usable or file.folder}
    folders = {file.parts[0] for file in files if file.usable and len(file.parts) > 1}
    assignments = any(re.match(r"[0-9]{2}-", name) for name in folders)  # nbgrader's, below each student
    return choose_platform(sorted(tops)) not in (None, "plain") or (len(folders) > 1 and not assignments)


def named(found: list[Submission], roster: Path) -> list[Submission]:
    """Return submissions with the names that a CSV file (columns ``student`` and ``name``) gives their ids.

    The file may be saved in UTF-8, UTF-16, GBK or Windows's Latin, with ``,`` or ``;``. Raises ``ValueError`` if it
    cannot be read, lacks a column, or gives an id two names.
    """
    try:
        columns, rows = read_table(roster.read_bytes())
    except OSError as error:
        raise ValueError(f"{roster} cannot be read ({error.strerror}): give a CSV file") from error
    keys = {column.lower(): column for column in columns}
    if not {"student", "name"} <= set(keys):
        raise ValueError(f"{roster}: the first line must name the columns `student` and `name`")
    names: dict[str, str] = {}
    for row in rows:
        student, name = same_form(row[keys["student"]]).lower(), one_line(same_form(row[keys["name"]]))
        if student and names.setdefault(student, name) != name:
            raise ValueError(f"{roster}: two names for the student {row[keys['student']]}: leave one")
    return [replace(one, name=names.get(one.student.lower(), one.name)) for one in found]


def own_data(found: Sequence[Submission], assignment: Assignment) -> list[Submission]:
    """Return submissions with the name from which each student's data were drawn, where the platform's is another.

    Moodle writes a group before the name (``Group A-Tom Li``): the data are those of one of the group's members. Where
    marking is blind it names nobody: then they belong to the name in the notebook, which no other may hold as well.
    """
    if not assignment.has_variants:
        return list(found)
    moodle = [submission for submission in found if submission.platform == "moodle"]
    names = Counter(submission.name for submission in moodle)
    same = len(names) == 1 and len(moodle) > 1  # Moodle calls all of them the same, in the site's language
    blind = bool(moodle) and (same or all(name.rpartition("-")[2] == BLIND for name in names))
    exported = {one.student: set(_groups(one.label.partition("_")[0])) for one in moodle}  # what --names leaves
    prefixes = Counter(prefix for groups in exported.values() for prefix in groups)
    grouped = all(exported.values()) and any(count > 1 for count in prefixes.values())
    settled: list[Submission] = []
    holders: dict[int, list[str]] = {}
    for submission in found:
        try:
            written = sorted(_names_in(_cells(submission.content())))
        except SubmissionError:
            written = []
        if submission.name.rpartition("-")[2] == BLIND and not blind:
            submission = replace(submission, name=f"{submission.name} {submission.student}")
        if submission.platform != "moodle" or len(written) != 1 or not written[0]:
            settled.append(submission)
            continue
        allowed = {submission.name, *_without_group(submission.name)}
        if blind:
            allowed = {written[0]}
            holders.setdefault(variant(written[0]), []).append(submission.student)
        elif grouped:
            members = [one.name for one in moodle if exported[one.student] & exported[submission.student]]
            allowed |= {name for member in members for name in (member, *_without_group(member))}
        match = [name for name in sorted(allowed) if variant(name) == variant(written[0])]
        settled.append(replace(submission, drawn_for=written[0] if match else None))
    problems = {
        student: f"{', '.join(students)} hand in notebooks with the same name in the set-up cell"
        for students in holders.values()
        if len(students) > 1
        for student in students
    }
    return [replace(one, problem=one.problem or problems.get(one.student)) for one in settled]


def _groups(name: str) -> list[str]:
    """Return what may be a group's name before a student's: ``Group A`` of ``Group A-Tom Li``."""
    return [name[: match.start()] for match in re.finditer("-", name)]


def _without_group(name: str) -> list[str]:
    """Return what may be the student's name behind a group's."""
    return [end for match in re.finditer("-", name) if (end := name[match.end() :])]


def _in_folder(place: Path) -> list[_File]:
    """Return the files and folders in a folder, without what systems leave behind."""
    raw: list[tuple[tuple[str, ...], Path, str | None, bool]] = []

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        if path == place:
            raise ValueError(f"{place} cannot be read ({error.strerror}): give a folder that you may read") from error
        raw.append((path.relative_to(place).parts, path, "the folder cannot be read", True))

    for root, folders, files in os.walk(place, followlinks=False, onerror=unreadable):
        for name in sorted([*folders, *files]):
            path = Path(root, name)
            linked = "a symbolic link, which is not followed" if path.is_symlink() else None
            raw.append((path.relative_to(place).parts, path, linked, name in folders and not linked))
        folders[:] = [name for name in folders if not _is_debris(name)]
    damaged = {part for parts, *_ in raw for part in parts if part != part.encode("utf-8", "ignore").decode()}
    encoding = old_encoding([os.fsencode(part) for part in damaged], "cp437")  # as GBK names, unpacked on Linux
    readable = {part: os.fsencode(part).decode(encoding, "replace") for part in damaged}
    return [
        _File(tuple(same_form(readable.get(part, part)) for part in parts), path, None, problem, folder)
        for parts, path, problem, folder in sorted(raw, key=lambda one: one[0])
        if not any(map(_is_debris, parts))
    ]


def _in_archive(place: Path) -> list[_File]:
    """Return the files and folders in an archive, without what systems leave behind."""
    with _archive(place) as archive:
        return [
            _File(parts, place, entry.filename, _unsafe(entry), entry.filename.endswith(("/", "\\")))
            for parts, entry in _entries(archive)
            if parts and not any(map(_is_debris, parts))
        ]


def _entries(archive: zipfile.ZipFile) -> list[tuple[tuple[str, ...], zipfile.ZipInfo]]:
    """Return an archive's entries by the parts of their names, in the encoding that its names have together."""
    utf8 = 0x800  # the flag of names that are said to be UTF-8; others arrive as code page 437
    old = [entry for entry in archive.infolist() if not entry.flag_bits & utf8]
    encoding = old_encoding([entry.filename.encode("cp437", "replace") for entry in old], "cp437")
    found = []
    for entry in archive.infolist():
        name = entry.filename
        if not entry.flag_bits & utf8 and encoding != "cp437":
            name = name.encode("cp437", "replace").decode(encoding, "replace")
        parts = [part for part in re.split(r"[/\\]", same_form(name)) if part not in ("", ".")]
        found.append((tuple(parts), entry))
    return found


def _is_debris(name: str) -> bool:
    hidden = name.startswith((".", "~$")) and name != ".."
    return hidden or name.lower() in _DEBRIS or name == "Icon\r"


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
    except Exception as error:  # damaged bytes raise whatever the library's parts raise
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
    if entry.compress_type not in _PACKED:
        raise SubmissionError("the archive is packed in an unusual way: hand in the .ipynb file, or an ordinary zip")
    try:
        with archive.open(entry) as file:
            return _bounded(file.read(LARGEST + 1))
    except SubmissionError:
        raise
    except Exception as error:  # damaged bytes raise whatever the library's parts raise
        raise SubmissionError("the archive is damaged or locked with a password") from error


def _bounded(data: bytes) -> bytes:
    if len(data) > LARGEST:
        raise SubmissionError(f"larger than {LARGEST // 2**20} MiB: clear the outputs and hand in again")
    return data


def _only_notebook(data: bytes) -> bytes:
    """Return the one notebook in a student's own archive."""
    with _archive(io.BytesIO(data)) as archive:
        entries = [(parts, entry) for parts, entry in _entries(archive) if not any(map(_is_debris, parts))]
        for _, entry in entries:
            if problem := _unsafe(entry):
                raise SubmissionError(problem)
        notebooks = [entry for parts, entry in entries if parts and not entry.is_dir() and NOTEBOOK.search(parts[-1])]
        if len(notebooks) != 1:
            raise SubmissionError(f"{len(notebooks)} notebooks in the archive: there must be one")
        return _read_member(archive, notebooks[0])


def answers(content: bytes, assignment: Assignment, student: str, *, any_version: bool = False) -> dict[str, str]:
    """Return the code of each question's answer, ``""`` where there is none; ``SubmissionError`` if none has one.

    A cell is known by its metadata, or by its marker line where a platform has dropped them. The parts of a cell that
    was split are joined, and of copies the last with an answer counts, as it does when the notebook is run from top to
    bottom. The answers to withdrawn questions are among them. ``student`` is the name that the learning platform gives,
    for assignments with variants.
    """
    cells = _cells(content)
    _check_origin([_ours(cell) for cell in cells], assignment, any_version)
    if assignment.has_variants and (problem := _name_problem(_names_in(cells), student)):
        raise SubmissionError(problem)
    found, notes = _sorted_out(cells, assignment)
    if not any(found[question.id] for question in assignment.questions):
        raise SubmissionError("; ".join(["there is no answer cell of this assignment", *notes][:8]))
    return found


def answer_notes(content: bytes, assignment: Assignment) -> list[str]:
    """Return what a person should know of the answer cells: those that are missing, doubled or of no question."""
    return _sorted_out(_cells(content), assignment)[1]


def _sorted_out(cells: list[dict[str, Any]], assignment: Assignment) -> tuple[dict[str, str], list[str]]:
    """Return each question's answer, and what is odd about the cells."""
    questions = {question.id: question for question in assignment.executed}
    copies: dict[str, list[list[str]]] = {identity: [] for identity in questions}
    notes: list[str] = []
    unknown: set[str] = set()
    above = ""  # whose answer the code cell above is
    for cell in cells:
        pieces = _pieces(cell, notes)
        for identity, marked, text in pieces:
            if identity not in questions:
                unknown.add(identity)
            elif identity == above and not marked:
                copies[identity][-1].append(text)  # the second half of a cell that was split
            else:
                copies[identity].append([text])
            above = identity
        if not pieces and cell.get("cell_type") == "code" and _source(cell).strip():
            above = ""
    for identity in sorted(unknown):
        notes.append(f"question {_short(identity)} is not in this assignment: was a cell renamed?")
    found = {}
    for identity, question in questions.items():
        joined = ["\n".join(parts) for parts in copies[identity]]
        begun = {_bare(text): text for text in reversed(joined) if not untouched(text, question)}
        found[identity] = [*begun.values(), *joined, ""][0]
        if identity in assignment.withdrawn:
            continue
        if not joined:
            notes.append(f"question {identity} is missing: its answer cell was deleted or renamed")
        elif len(begun) > 1:
            notes.append(f"question {identity} stands {len(begun)} times, with different answers: the last one counts")
    return found, notes


def _bare(code: str) -> str:
    """Return code without what programs change when they copy or save it: the ends of lines and of the text."""
    return "\n".join(line.rstrip() for line in code.split("\n")).strip("\n")


def _pieces(cell: dict[str, Any], notes: list[str]) -> list[tuple[str, bool, str]]:
    """Return the answers in a cell: of which question each is, whether its marker says so, and its code."""
    if cell.get("cell_type") != "code":
        return []
    data, source = _ours(cell), _source(cell)
    named = str(data.get("id")) if data.get("role") == "answer" else None
    markers = list(_MARKER.finditer(source))
    if not markers:
        return [(named, False, source)] if named and source.strip() else []
    if named and named not in [marker[1] for marker in markers]:
        if _MARKER.sub("", source).strip():
            told = f"a cell is {_short(named)} by its metadata and {markers[0][1]} by its first line"
            notes.append(f"{told}: it was left out")
        return []
    starts = [0, *(marker.start() for marker in markers[1:])]  # two cells that were merged are two answers
    ends = [*starts[1:], len(source)]
    return [(m[1], True, source[a:b]) for m, a, b in zip(markers, starts, ends, strict=True)]


def untouched(code: str, question: Question) -> bool:
    """Return whether an answer is empty, or as it was given out."""
    words = code.replace(question.marker, "").split()
    return not words or words == question.starter.replace(question.marker, "").split()


def _names_in(cells: Iterable[dict[str, Any]]) -> set[str]:
    """Return the names that the set-up cell gives to ``STUDENT``; only the text between quotes is read."""
    names = set()
    for cell in cells:
        if cell.get("cell_type") != "code" or _ours(cell).get("role") == "answer":
            continue
        source = _source(cell)
        if (match := _STUDENT.search(source)) and not _MARKER.search(source):
            quotes = 3 if match[1][:3] in ('"""', "'''") else 1
            names.add(re.sub(r"\\(.)", r"\1", match[1][quotes:-quotes]).strip())
    return names


def _name_problem(written: set[str], student: str) -> str | None:
    """Say what is wrong with the name in the set-up cell, from which the student's data are drawn."""
    if len(written) != 1 or "" in written:
        return "the set-up cell has no name: STUDENT must be filled in once"
    if variant(*written) == variant(student):
        return None
    return (
        f"the set-up cell names {_short(*written)}, but the submission is {_short(student)}'s "
        "(instructors: --names gives ids their names)"
    )


def _cells(content: bytes) -> list[dict[str, Any]]:
    """Return a notebook's cells; ``SubmissionError`` if the bytes are no notebook."""
    if content.count(b"[") + content.count(b"{") > MOST_LISTS:  # they need fifty times their size in memory
        raise SubmissionError("not a notebook that can be read: clear the outputs and hand in again")
    try:
        notebook = json.loads(content)
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
    return source.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")


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
