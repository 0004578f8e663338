"""An assignment's one source: a MyST notebook whose cells say what they are, read into an ``Assignment``.

The page "Teach with it: assignments" of the book documents the format; ``assignments/03-attention.md`` is an example.
Each question is a run of cells: a Markdown cell that begins with ``## Question 1: title``, then code cells with the
roles ``answer`` (what a student starts from), ``solution``, ``check`` (public), ``cases`` (hidden) and at least three
times ``wrong`` (plausible mistakes, for the tests).
"""

from __future__ import annotations

import ast
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "assignments"
LEVELS = ("recall", "use", "derive", "debug", "investigate")
KINDS = ("function", "value")
VARIANTS = 1000
WRONG_AT_LEAST = 3
ROLES = ("setup", "answer", "solution", "check", "cases", "wrong")
_TITLE = re.compile(r"## Question (\d+): (\S.*)")
_STUDENT = re.compile(r'^STUDENT = ""', re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """One question: what the student reads and starts from, and what only the instructor has.

    ``section`` is the heading of the chapter's section to have read before, or empty.
    """

    id: str
    title: str
    level: str
    teaches: str
    points: int
    name: str
    kind: str
    prompt: str
    starter: str
    solution: str
    public: str
    cases: str
    tolerance: float
    wrong: tuple[tuple[str, str], ...]
    section: str = ""

    @property
    def marker(self) -> str:
        """The first line of the answer cell, by which it is found when a platform has dropped the metadata."""
        return f"# Question {self.id}: your answer"


@dataclass(frozen=True)
class Assignment:
    """A whole assignment; ``parts`` are Markdown texts and questions in the order of the page.

    ``withdrawn`` are the questions that were handed out and count no longer; ``questions`` are the others, and
    ``parts`` has both.
    """

    id: str
    name: str
    title: str
    minutes: int
    version: str
    preamble: str
    parts: tuple[str | Question, ...]
    questions: tuple[Question, ...]
    withdrawn: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """The sum of the questions' points."""
        return sum(question.points for question in self.questions)

    @property
    def executed(self) -> tuple[Question, ...]:
        """The questions whose cells run, in the order of the page: a later answer may use that of a withdrawn one."""
        counting = {question.id: question for question in self.questions}
        asked = [part for part in self.parts if isinstance(part, Question)]
        kept = (*counting, *self.withdrawn)
        return tuple(counting.get(question.id, question) for question in asked if question.id in kept)

    @property
    def has_variants(self) -> bool:
        """Whether the set-up cell asks for the student's name, from which some data are drawn."""
        return bool(_STUDENT.search(self.preamble))

    def preamble_for(self, student: str) -> str:
        """Return the set-up code as if ``student`` had written their name into it; unchanged where it asks for none."""
        return _STUDENT.sub(lambda _: f"STUDENT = {student!r}", self.preamble, count=1)


def variant(student: str) -> int:
    """Return the number from 0 to 999 that belongs to a name.

    Case, accents, spaces and the order of the letters do not matter, so that "Jane Smith" and a learning platform's
    "smithjane" have the same number. Set-up cells carry the same lines.
    """
    letters = sorted(c for c in unicodedata.normalize("NFKD", student).casefold() if c.isalnum())
    return int(hashlib.sha256("".join(letters).encode()).hexdigest(), 16) % VARIANTS


def folders() -> list[Path]:
    """Return where sources are looked for: ``assignments`` here, and that of the repository around the package."""
    return list(dict.fromkeys([Path.cwd() / "assignments", FOLDER]))


def find_assignment(number: str, *places: Path) -> Path:
    """Return the source of an assignment, by its number ("03") or its name ("03-attention").

    Args:
        number: number or name.
        places: the folders to look in, in order (default: :func:`folders`).

    Raises:
        ValueError: none of the folders has it, as where the package is installed without the repository.
    """
    places = places or tuple(folders())
    known = [path for place in places for path in find_all(place)]
    for path in known:
        if number in (path.stem, path.stem[:2], path.stem[:2].lstrip("0")):
            return path
    names = ", ".join(dict.fromkeys(path.stem for path in known)) or "none"
    raise ValueError(
        f"no assignment is called {number!r} in {' or '.join(map(str, places))}; known: {names}. Give the path of a "
        "source, /a/folder/NN-name.md, or go to a clone of the book's repository, where the sources are"
    )


def find_all(folder: Path = FOLDER) -> list[Path]:
    """Return the sources of all assignments of a folder, in order."""
    return sorted(folder.glob("[0-9][0-9]-*.md"))


def read(path: Path) -> Assignment:
    """Read an assignment; ``ValueError`` names the file, the cell and the remedy if something is missing or wrong."""
    try:
        import jupytext
    except ImportError as error:
        raise ValueError("reading an assignment needs jupytext: `pip install jupytext`") from error
    path = Path(path)
    named = re.fullmatch(r"(\d\d)-[a-z0-9-]+", path.stem)
    if not named:
        raise ValueError(f"{path}: an assignment's file is called NN-name.md, such as 03-attention.md")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give the path of a source") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8 text") from error
    try:
        notebook = jupytext.reads(text, fmt="md:myst")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as a MyST notebook: {reason}") from error
    return _Reader(path).assignment(named[1], _version(text), notebook)


def withdraw(assignment: Assignment, identities: Sequence[str]) -> Assignment:
    """Return an assignment without some of its questions; notebooks that still have them are graded without them.

    The cells of those questions still run, unmarked, since later answers may use what they define.

    Raises ``ValueError`` if there is no such question, or none would be left.
    """
    known = [*(question.id for question in assignment.questions), *assignment.withdrawn]
    if unknown := sorted(set(identities) - set(known)):
        raise ValueError(
            f"no question {', '.join(unknown)} to withdraw; {assignment.name} has {', '.join(sorted(known))}"
        )
    out = {*identities, *assignment.withdrawn}
    left = tuple(question for question in assignment.questions if question.id not in out)
    if not left:
        raise ValueError(f"all questions of {assignment.name} would be withdrawn: leave at least one")
    return replace(assignment, questions=left, withdrawn=tuple(sorted(out)))


def _version(text: str) -> str:
    """Return the version of a source. That a question was withdrawn does not change it: the notebooks stay the same."""
    header, mark, body = text.partition("\n---")
    return hashlib.sha256((_without_withdrawn(header) + mark + body).encode()).hexdigest()[:12]


def _without_withdrawn(header: str) -> str:
    """Return a header's text as it stood before ``withdrawn`` was written into it, however that was done."""
    import yaml

    try:
        node: Any = yaml.compose(header, yaml.SafeLoader)
    except yaml.YAMLError:
        return header
    pairs: list[Any] = node.value if isinstance(node, yaml.MappingNode) else []
    for node in [value for key, value in pairs if key.value == "llmbook" and isinstance(value, yaml.MappingNode)]:
        keys = [key.value for key, _ in node.value]
        if "withdrawn" not in keys:
            continue
        place = keys.index("withdrawn")
        key, value = node.value[place]
        start, end = key.start_mark.index, value.end_mark.index
        if not node.flow_style:  # the lines of the key, and what is written behind them
            start = header.rindex("\n", 0, start)
            end = header.find("\n", len(header[:end].rstrip()))
            return header[:start] + (header[end:] if end >= 0 else "")
        if place > 0:
            start = node.value[place - 1][1].end_mark.index
        elif len(keys) > 1:
            end = node.value[1][0].start_mark.index
        return header[:start] + header[end:]
    return header


class _Reader:
    """Turns the cells of one file into an assignment; knows where it is, for its messages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = "header"

    def error(self, problem: str) -> ValueError:
        return ValueError(f"{self.path}, {self.where}: {problem}")

    def assignment(self, number: str, version: str, notebook: Any) -> Assignment:
        header = notebook.metadata.get("llmbook", {})
        minutes = header.get("minutes") if isinstance(header, dict) else None
        if type(minutes) is not int or minutes <= 0:
            raise self.error("no time to solve: write `llmbook: {minutes: 90}` into the header")
        withdrawn = header.get("withdrawn", [])
        if not isinstance(withdrawn, list) or not all(isinstance(identity, str) for identity in withdrawn):
            raise self.error(f"`withdrawn` is {withdrawn!r}; give a list of questions, `withdrawn: [q4]`")
        preamble, title = None, ""
        parts: list[str | Question] = []
        cells: list[tuple[int, str, Any]] = []  # of the question that is being read

        def close() -> None:
            if cells:
                parts.append(self.question(cells))
                cells.clear()

        for position, cell in enumerate(notebook.cells, start=1):
            self.where = f"cell {position}"
            source = cell.source.strip("\n")
            if cell.cell_type != "code":
                close()
                if not source.strip():
                    continue
                if source.startswith("## Question"):
                    cells.append((position, "prompt", cell))
                else:
                    if not parts and source.startswith("# "):
                        title = source.partition("\n")[0][2:].strip()
                    parts.append(source)
                continue
            role = self.metadata(cell).get("role")
            if role not in ROLES:
                known = ", ".join(ROLES)
                raise self.error(f"role {role!r}; a code cell has one of {known}: write `:llmbook: {{role: check}}`")
            self.compiles(source)
            if role == "setup":
                if preamble is not None or cells or any(isinstance(part, Question) for part in parts):
                    raise self.error("there is one set-up cell, and it stands before the first question")
                preamble = source
            elif not cells:
                raise self.error(
                    f"a cell with the role {role} outside of a question: begin the question with "
                    "a Markdown cell `## Question 1: title`"
                )
            else:
                cells.append((position, role, cell))
        close()
        self.where = "the whole"
        questions = tuple(part for part in parts if isinstance(part, Question))
        if not title:
            raise self.error("no title: begin with a line `# Assignment 3: Attention`")
        if preamble is None:
            raise self.error("no set-up cell: add a code cell with `:llmbook: {role: setup}`")
        if not questions:
            raise self.error("no questions: each begins with a Markdown cell `## Question 1: title`")
        for values, what in (([q.id for q in questions], "id"), ([q.name for q in questions], "name")):
            twice = {value for value in values if values.count(value) > 1}
            if twice:
                raise self.error(f"two questions with the same {what}: {', '.join(sorted(twice))}")
        whole = Assignment(number, self.path.stem, title, minutes, version, preamble, tuple(parts), questions)
        self.where = "header"
        try:
            return withdraw(whole, withdrawn)
        except ValueError as error:
            raise self.error(str(error)) from error

    def metadata(self, cell: Any) -> dict[str, Any]:
        found = cell.metadata.get("llmbook", {})
        if not isinstance(found, dict):
            raise self.error("the cell's `llmbook` is no mapping: write `:llmbook: {role: check}`")
        return found

    def compiles(self, code: str) -> ast.Module:
        try:
            return ast.parse(code)
        except SyntaxError as error:
            raise self.error(f"the code is no Python ({error.msg}, line {error.lineno} of the cell)") from error

    def question(self, cells: list[tuple[int, str, Any]]) -> Question:
        """Make a question of its prompt and its code cells."""
        self.where = f"cell {cells[0][0]}"
        prompt = cells[0][2].source.strip("\n")
        heading = _TITLE.match(prompt)
        if not heading:
            raise self.error("a question's heading is `## Question 1: title`")
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {role: [] for role in ROLES}
        for position, role, cell in cells[1:]:
            self.where = f"cell {position}"
            found[role].append((cell.source.strip("\n"), self.metadata(cell)))
        self.where = f"question {heading[1]} (from cell {cells[0][0]})"
        for role in ("answer", "solution", "check"):
            if len(found[role]) != 1:
                raise self.error(f"{len(found[role])} cells with the role {role}; a question has one")
        starter, data = found["answer"][0]
        allowed = {"role", "id", "points", "level", "teaches", "name", "kind", "tolerance", "section"}
        if unknown := set(data) - allowed:
            raise self.error(f"the answer cell has {', '.join(sorted(unknown))}; known: {', '.join(sorted(allowed))}")
        for key, kind in (("id", str), ("points", int), ("level", str), ("teaches", str), ("name", str)):
            if type(data.get(key)) is not kind:
                raise self.error(f"the answer cell's `{key}` is {data.get(key)!r}; give a {kind.__name__}")
        data = {"kind": "function", "tolerance": 1e-6, "section": "", **data}
        if not isinstance(data["section"], str):
            raise self.error(f"the answer cell's `section` is {data['section']!r}; give the heading of a section")
        if data["id"] != f"q{heading[1]}":
            raise self.error(f"the id {data['id']!r} does not belong to the heading: call it q{heading[1]}")
        if data["points"] < 1:
            raise self.error("a question has at least one point")
        if data["level"] not in LEVELS:
            raise self.error(f"level {data['level']!r}; known: {', '.join(LEVELS)}")
        if data["kind"] not in KINDS:
            raise self.error(f"kind {data['kind']!r}; known: {', '.join(KINDS)}")
        if not data["name"].isidentifier():
            raise self.error(f"{data['name']!r} is no name of a Python function or variable")
        solution, public = found["solution"][0][0], found["check"][0][0]
        cases = found["cases"][0][0] if found["cases"] else ""
        if len(found["cases"]) != (data["kind"] == "function"):
            raise self.error("a function has one cell with the role cases, a value none")
        if cases and "cases" not in self.defined(cases):
            raise self.error("the hidden cases define no function `cases(seed)`")
        for role, code in [("answer", starter), ("solution", solution)]:
            if data["name"] not in self.defined(code):
                raise self.error(f"the cell with the role {role} defines no {data['name']}")
        wrong = []
        for code, details in found["wrong"]:
            if not isinstance(details.get("why"), str):
                raise self.error("a wrong solution without `why:`, the reason that a student might write it")
            if data["name"] not in self.defined(code):
                raise self.error(f"the wrong solution {details['why']!r} defines no {data['name']}")
            wrong.append((details["why"], code))
        if len(wrong) < WRONG_AT_LEAST:
            raise self.error(f"{len(wrong)} wrong solutions; a question has at least {WRONG_AT_LEAST}")
        return Question(
            id=data["id"],
            title=heading[2].strip(),
            level=data["level"],
            teaches=data["teaches"],
            points=data["points"],
            name=data["name"],
            kind=data["kind"],
            prompt=prompt,
            starter=starter,
            solution=solution,
            public=public,
            cases=cases,
            tolerance=float(data["tolerance"]),
            wrong=tuple(wrong),
            section=data["section"],
        )

    def defined(self, code: str) -> set[str]:
        """Return the names that a cell's statements define, without running it."""
        names: set[str] = set()
        for statement in self.compiles(code).body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                names.add(statement.name)
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.add(node.id)
        return names
