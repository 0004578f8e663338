"""The rules of a chapter: each takes what is known about one and returns what is wrong, one line for each thing.

`tests/test_chapters.py` applies them to every chapter and sees each of them fail on a made-up bad one.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

from chapters import (
    MAX_MEMORY_MIB,
    MAX_SECONDS,
    MAX_TOTAL_SECONDS,
    ROOT,
    SETUP_TAG,
    WORKERS,
    Chapter,
    Problem,
    cell_contents,
    code_cells,
    code_sha256,
    find_chapters,
    read_manuscript,
    read_measurements,
    read_notebook,
    set_up_source,
    tags,
)
from house import kept_definitions, public_names, uses

EXERCISES = range(4, 9)
EXERCISE_WORD = {"en": "Exercise"}
CHECKED = "# NBVAL_CHECK_OUTPUT"
_markdown = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)


@dataclass(frozen=True)
class Case:
    """All that the rules look at of one chapter."""

    chapter: Chapter
    manuscript: nbformat.NotebookNode
    notebook: nbformat.NotebookNode
    measurement: dict[str, Any]
    set_up: str
    bibliography: str


Rule = Callable[[Case], list[str]]
LONGEST_CODE = 113  # characters; tests/test_site.py measures that a longer line is cut off


def load(chapter: Chapter, root: Path = ROOT) -> Case:
    """Read what the rules need; a missing file is a ``Problem``."""
    if not chapter.notebook.exists():
        raise Problem(f"{chapter.name} has no notebook: run `make notebooks CHAPTER={chapter.name}`")
    return Case(
        chapter=chapter,
        manuscript=read_manuscript(chapter),
        notebook=read_notebook(chapter),
        measurement=read_measurements(root).get(chapter.name, {}),
        set_up=set_up_source(chapter, root),
        bibliography=_bibliography(root),
    )


def _bibliography(root: Path) -> str:
    """Return the text of the bibliography, empty where there is none."""
    path = root / "book" / "references.bib"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _tokens(text: str) -> Iterator[Token]:
    """Yield a Markdown text's tokens with those inside paragraphs, in order."""
    for token in _markdown.parse(text):
        yield token
        yield from token.children or ()


def _prose(notebook: nbformat.NotebookNode) -> Iterator[Token]:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield from _tokens(cell.source)


def _links(notebook: nbformat.NotebookNode) -> list[str]:
    hrefs = [token.attrGet("href") for token in _prose(notebook) if token.type == "link_open"]
    return [unquote(str(href)) for href in hrefs]


def _images(notebook: nbformat.NotebookNode) -> list[str]:
    sources = [token.attrGet("src") for token in _prose(notebook) if token.type == "image"]
    return [unquote(str(source)) for source in sources]


# --- the rules ------------------------------------------------------------------------------------------------------


def pair_in_step(case: Case) -> list[str]:
    """The manuscript and the notebook say the same."""
    written, stored = cell_contents(case.manuscript), cell_contents(case.notebook)
    remedy = f"run `make notebooks CHAPTER={case.chapter.name}`"
    for number, (ours, theirs) in enumerate(zip(written, stored, strict=False), start=1):
        if ours != theirs:
            return [f"cell {number} differs between manuscript and notebook: {remedy}"]
    if len(written) != len(stored):
        return [f"the manuscript has {len(written)} cells, the notebook {len(stored)}: {remedy}"]
    return []


def executed_in_order(case: Case) -> list[str]:
    """All code cells have been executed, from the first to the last, in one go."""
    counts = [cell.execution_count for cell in code_cells(case.notebook)]
    if counts != list(range(1, len(counts) + 1)):
        return [f"code cells were executed as {counts}, not 1 to {len(counts)} in order: run `make notebooks`"]
    return []


def no_error_output(case: Case) -> list[str]:
    """No cell ended in an error that it does not announce with the tag `raises-exception`."""
    return [
        f"code cell {number} shows {output.ename} and has no tag raises-exception"
        for number, cell in enumerate(code_cells(case.notebook), start=1)
        for output in cell.outputs
        if output.output_type == "error" and "raises-exception" not in tags(cell)
    ]


def no_unrendered_mark_up(case: Case) -> list[str]:
    """Prose reads the same in Colab and on the site: no MyST role, no directive in backticks."""
    problems = []
    before = ""
    for token in _prose(case.notebook):
        role = re.search(r"\{[A-Za-z][\w:+.-]*\}$", before)
        if token.type == "code_inline" and role:
            problems.append(f"role {role[0]}`{token.content}` stays unrendered in Colab: use Markdown")
        if token.type == "fence" and token.info.startswith("{"):
            problems.append(f"directive ```{token.info} stays unrendered in Colab: use a colon fence or Markdown")
        before = token.content if token.type == "text" else ""
    return problems


def set_up_cell(case: Case) -> list[str]:
    """The first code cell installs what the chapter needs where it is missing, and is the only one to."""
    code = code_cells(case.notebook)
    if not code or SETUP_TAG not in tags(code[0]):
        return [f"the first code cell has no tag {SETUP_TAG}: begin with the set-up cell (see CONTRIBUTING.md)"]
    problems = []
    if code[0].source != case.set_up:
        problems.append(f"the set-up cell is not the one of this chapter and address, which is:\n{case.set_up}")
    if any(SETUP_TAG in tags(cell) for cell in code[1:]):
        problems.append(f"more than one cell has the tag {SETUP_TAG}")
    return problems


def within_budget(case: Case) -> list[str]:
    """The recorded execution took no more time and memory than a chapter may on such a machine."""
    seconds, memory = case.measurement.get("seconds"), case.measurement.get("peak_memory_mib")
    if seconds is None or memory is None:
        return [f"no measurement: run `make notebooks CHAPTER={case.chapter.name}`"]
    problems = []
    products = case.measurement.get("products", "bfloat16")
    if seconds > MAX_SECONDS[products]:
        allowed = f"with {products} products a chapter has {MAX_SECONDS[products]} s on one thread"
        problems.append(f"took {seconds} s; {allowed}")
    if memory > MAX_MEMORY_MIB:
        problems.append(f"needed {memory} MiB; a chapter has {MAX_MEMORY_MIB} MiB")
    return problems


def recorded_code(case: Case) -> list[str]:
    """The stored outputs and the measurement are those of the code that stands there."""
    if case.measurement.get("code_sha256") != code_sha256(case.notebook):
        return [f"the code changed since it was executed: run `make notebooks CHAPTER={case.chapter.name}`"]
    return []


def reads_only_the_package(case: Case) -> list[str]:
    """Code reads no file of the repository, which an installed package and Colab do not have."""
    return [
        f"code cell {number} reaches out of its folder: {line.strip()} (in Colab it is not there; what a chapter reads "
        "is data of the package, such as `llmbook.results.recorded`)"
        for number, cell in enumerate(code_cells(case.notebook), start=1)
        for line in cell.source.splitlines()
        if "../" in line
    ]


def _alternative(cell: nbformat.NotebookNode) -> str:
    """Return the alternative text that a cell's metadata gives to what it draws."""
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip()


def figures_described(case: Case) -> list[str]:
    """Every picture has alternative text: in Markdown, in HTML, and for what a cell draws."""
    problems = [
        f"image {token.attrGet('src')} has no alternative text"
        for token in _prose(case.notebook)
        if token.type == "image" and not token.content.strip()
    ]
    pages = [token.content for token in _prose(case.notebook) if token.type in ("html_block", "html_inline")]
    for number, cell in enumerate(code_cells(case.notebook), start=1):
        drawn = [output.data for output in cell.outputs if "data" in output]
        pages += [data["text/html"] for data in drawn if "text/html" in data]
        if any(mime.startswith("image/") for data in drawn for mime in data) and not _alternative(cell):
            problems.append(f"code cell {number} draws a figure without alternative text (mystnb: image: alt:)")
    for page in pages:
        for tag in re.findall(r"<(?:img|svg)\b[^>]*>", page):
            if not re.search(r"\b(?:alt|aria-label|aria-labelledby)=[\"'][^\"']|aria-hidden=[\"']true", tag):
                problems.append(f"{tag[:60]} has no alternative text (alt or aria-label)")
    return problems


def described_figures_drawn(case: Case) -> list[str]:
    """Every cell whose metadata describe a figure shows one; a cell that is one `if` as a whole may draw nothing."""
    return [
        f"code cell {number} describes a figure (mystnb: image: alt:) and its stored outputs show none: return the "
        f"figure or make it with pyplot, and run `make notebooks CHAPTER={case.chapter.name}`"
        for number, cell in enumerate(code_cells(case.notebook), start=1)
        if _alternative(cell)
        and not any(_is_picture(output.get("data", {})) for output in cell.outputs)
        and not _is_conditional(cell.source)
    ]


def _is_conditional(source: str) -> bool:
    """Tell whether a cell's code is one `if`, as where it draws a record that may not be there yet."""
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    return bool(lines) and lines[0].startswith("if ") and all(line.startswith(" ") for line in lines[1:])


def _is_picture(data: dict[str, Any]) -> bool:
    """Tell whether an output is an image, or a page that holds one, as an interactive view is."""
    page = data.get("text/html", "")
    return any(mime.startswith("image/") for mime in data) or bool(re.search(r"<(?:figure|img|svg)\b", page))


def cited_work_in_bibliography(case: Case) -> list[str]:
    """Every link to arXiv or a DOI is in `book/references.bib`."""
    known = case.bibliography.lower()
    problems = []
    for href in _links(case.notebook):
        found = re.search(r"arxiv\.org/(?:abs|pdf|html)/([\w.-]+/\d{7}|\d{4}\.\d{4,5})|doi\.org/(10\.\S+)", href)
        if found and (found[1] or found[2]).lower() not in known:
            problems.append(f"{href} is not in book/references.bib: add it")
    return problems


def code_lines_fit(case: Case) -> list[str]:
    """A line of code fits into the column of the site on a screen of 1,400 pixels."""
    return [
        f"code cell {number} has a line of {len(line)} characters, the page has room for {LONGEST_CODE}: {line[:60]}"
        for number, cell in enumerate(code_cells(case.notebook), start=1)
        for line in cell.source.split("\n")
        if len(line) > LONGEST_CODE
    ]


def linked_files_exist(case: Case) -> list[str]:
    """A link or picture with a relative path points to a file; pictures come from no other host."""
    problems = []
    folder = case.chapter.notebook.parent
    for target in _links(case.notebook) + _images(case.notebook):
        parts = urlsplit(target)
        relative = parts.path and not parts.scheme and not parts.netloc
        if relative and not (folder / parts.path).exists():
            problems.append(f"{target} does not exist (seen from notebooks/{folder.name}/)")
    return problems + [
        f"picture {source} comes from another host: commit or compute it"
        for source in _images(case.notebook)
        if urlsplit(source).netloc
    ]


def exercises_with_solutions(case: Case) -> list[str]:
    """Four to eight exercises, numbered from 1, each with a folded solution before the next heading."""
    word = EXERCISE_WORD[case.chapter.name.partition("/")[0]]
    numbers: list[int] = []
    solved: set[int] = set()
    current = None
    for cell in case.notebook.cells:
        if cell.cell_type == "code":
            if current and "hide-cell" in tags(cell):
                solved.add(current)
            continue
        heading_level = 0
        for token in _tokens(cell.source):
            if token.type == "heading_open":
                heading_level = int(token.tag[1:])
            elif token.type == "inline" and heading_level:
                title = re.match(rf"{word} (\d+): \S", token.content) if heading_level == 3 else None
                if title:
                    current = int(title[1])
                    numbers.append(current)
                elif heading_level <= 3:
                    current = None
                heading_level = 0
            elif token.type in ("html_block", "html_inline") and "<details" in token.content and current:
                solved.add(current)
    problems = [f"exercise {number} has no solution" for number in numbers if number not in solved]
    if len(numbers) not in EXERCISES:
        problems.append(f"{len(numbers)} exercises; a chapter has {EXERCISES[0]} to {EXERCISES[-1]}")
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"exercises are numbered {numbers}, not 1 to {len(numbers)}")
    return problems


def outputs_compared(case: Case) -> list[str]:
    """At least one cell asks for its output to be compared when the notebook is tested."""
    if not any(CHECKED in cell.source for cell in code_cells(case.notebook)):
        return [f"no cell is marked `{CHECKED}`: mark those whose output is the same on every machine"]
    return []


def definitions_say_where_kept(case: Case) -> list[str]:
    """A definition that the package keeps says where: ``# kept in llmbook.attention`` above it names what there is.

    It has to where the chapter takes the package's thing of that name too. Cells that benchmarks run are passed over:
    their records carry a hash of them.
    """
    cells = code_cells(case.notebook)
    there = {f"{public.module}.{public.name}" for public in public_names()}
    taken = {path.rpartition(".")[2].lower(): path for path in uses([cell.source for cell in cells]) & there}
    problems = []
    for name, path in (pair for cell in cells if "engine" not in tags(cell) for pair in kept_definitions(cell.source)):
        if path and path not in there:
            problems.append(f"{name} is said to be kept as {path}, which is no public name: correct `# kept in`")
        elif not path and name.lower() in taken:
            packaged = taken[name.lower()]
            remedy = f"write `# kept in {packaged.rpartition('.')[0]}` above it, or rename it"
            problems.append(f"the chapter defines {name} and takes {packaged}: {remedy}")
    return problems


RULES: list[Rule] = [
    pair_in_step,
    executed_in_order,
    no_error_output,
    no_unrendered_mark_up,
    set_up_cell,
    within_budget,
    recorded_code,
    reads_only_the_package,
    figures_described,
    described_figures_drawn,
    cited_work_in_bibliography,
    code_lines_fit,
    linked_files_exist,
    exercises_with_solutions,
    outputs_compared,
    definitions_say_where_kept,
]


def book_problems(root: Path = ROOT) -> list[str]:
    """Return what is wrong with the whole: files of no chapter, works listed twice, the time of all together."""
    chapters = find_chapters(root)
    notebooks = {chapter.notebook for chapter in chapters}
    problems = [
        f"{path.relative_to(root)} has no manuscript: run `.venv/bin/jupytext --sync {path.relative_to(root)}`"
        for path in sorted(root.glob("notebooks/*/*.ipynb"))
        if path not in notebooks
    ]
    measurements = read_measurements(root)
    names = {chapter.name for chapter in chapters}
    problems += [f"measurements.json has {name}, which is no chapter" for name in measurements if name not in names]
    keys = Counter(re.findall(r"^@\w+\{([^,\s]+)", _bibliography(root).lower(), re.MULTILINE))
    problems += [f"book/references.bib has {key} {count} times: keep one" for key, count in keys.items() if count > 1]
    total = sum(entry["seconds"] for entry in measurements.values()) / WORKERS
    most = max((MAX_TOTAL_SECONDS[entry.get("products", "bfloat16")] for entry in measurements.values()), default=0)
    if total > most:
        problems.append(f"all chapters take {total:.0f} s with {WORKERS} workers; they have {most} s")
    return problems


def _title(text: str) -> str:
    """Return the first heading of a Markdown text."""
    return next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), "title")


def unlisted(root: Path = ROOT) -> list[str]:
    """Return what is missing from the lists that are written by hand, each with the line to add.

    A chapter stands in `_toc.yml`, and in its language's `index.md` (with its number), `sources.md` and `teaching.md`;
    a numbered part of `_toc.yml` (`I · Title`) stands in `README.md` and on the front page.
    """
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    in_contents = {chapter["file"] for part in contents["parts"] for chapter in part["chapters"]}
    problems = []
    for chapter in find_chapters(root):
        language, _, stem = chapter.name.partition("/")
        path = f"notebooks/{chapter.name}"
        link = f"[{_title(chapter.manuscript.read_text(encoding='utf-8'))}](../../{path}.ipynb)"
        if path not in in_contents:
            problems.append(f"_toc.yml lacks a chapter: add `- file: {path}` to its part")
        for page, line, found in (
            ("index.md", f"{int(stem[:2])}. {link}", rf"^ *{int(stem[:2])}\. \[[^]]+\]\(\.\./\.\./{path}\.ipynb\)"),
            ("sources.md", f"| the sections of the sources | the topic | {link} |", rf"\(\.\./\.\./{path}\.ipynb[#)]"),
            ("teaching.md", f"| week | {link} | lab | to hand in |", rf"\(\.\./\.\./{path}\.ipynb[#)]"),
        ):
            text = (root / "book" / language / page).read_text(encoding="utf-8")
            if not re.search(found, text, re.MULTILINE):
                problems.append(f"book/{language}/{page} lacks a chapter: add `{line}`")
    read_me = (root / "README.md").read_text(encoding="utf-8")
    front = (root / f"{contents['root']}.md").read_text(encoding="utf-8")
    for part in contents["parts"]:
        number, _, title = part["caption"].partition(" · ")
        if not title:
            continue
        if f"*{title}*" not in " ".join(read_me.split()):
            problems.append(f"README.md lacks a part: add a sentence on `*{title}*`")
        if f"**{number}. {title}**" not in front:
            problems.append(f"{contents['root']}.md lacks a part: add `- **{number}. {title}** what it is about`")
    return problems
