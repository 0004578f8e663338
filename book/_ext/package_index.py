"""``{package-index}``: the public names of one floor of the companion package, module by module.

```
:::{package-index} models
:::
```
names a floor of ``tools/house.py``, which reads the package without importing it. Each name has its signature, the
first sentence of its docstring and the chapter it belongs to, and an anchor, ``#llmbook.attention.causal_mask``, that
the search leads to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import cast

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.util.docutils import SphinxDirective

from chapters import Chapter, code_cells, find_chapters, read_manuscript
from house import FLOORS, Public, kept_definitions, modules, public_names, room, uses

STRINGS = {"en": {"chapter": "Chapter", "class": "class"}}
SENTENCE = re.compile(r".+?[.!?](?<!et al\.)(?<!e\.g\.)(?<!i\.e\.)(?=\s+[A-Z`:]|$)|.+")
MARKUP = re.compile(r"``(.+?)``|:\w+:`~?(.+?)`")


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring in one line."""
    found = SENTENCE.match(" ".join(docstring.strip().partition("\n\n")[0].split()))
    return found[0] if found else ""


def inline(text: str) -> Iterator[nodes.Node]:
    """Turn a docstring's literals and roles into nodes."""
    end = 0
    for found in MARKUP.finditer(text):
        yield nodes.Text(text[end : found.start()])
        yield nodes.literal("", found[1] or found[2])
        end = found.end()
    yield nodes.Text(text[end:])


def mentions(chapter: Chapter) -> tuple[set[str], set[str]]:
    """Return dotted names of the package that a chapter builds (``# kept in``), and those that it takes from it."""
    sources = [cell.source for cell in code_cells(read_manuscript(chapter))]
    return {kept for source in sources for _, kept in kept_definitions(source)}, uses(sources)


@cache
def chapter_of_each(language: str) -> dict[Public, Chapter]:
    """Return the chapter that builds a name, else the one its module names, else the first that uses it."""
    known = modules()
    chapters = [chapter for chapter in find_chapters() if chapter.name.startswith(f"{language}/")]
    by_number = {int(chapter.manuscript.name[:2]): chapter for chapter in chapters}
    found = {chapter: mentions(chapter) for chapter in chapters}
    chosen: dict[Public, Chapter] = {}
    for public in public_names():
        paths = {f"{public.module}.{public.name}", f"{public.home.name}.{public.name}"}
        told = [docstring for docstring in (public.home.docstring, known[public.module].docstring) if docstring]
        numbers = [int(number) for docstring in told for number in re.findall(r"\bchapters? (\d+)", docstring)]
        candidates = [
            *(chapter for chapter, (built, _) in found.items() if paths & built),
            *(by_number[number] for number in numbers if number in by_number),
            *(chapter for chapter, (_, used) in found.items() if paths & used),
        ]
        if candidates:
            chosen[public] = candidates[0]
    return chosen


class PackageIndex(SphinxDirective):
    """The directive."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a section for each module of the floor, or a one-line error."""
        floor = self.arguments[0]
        if floor not in FLOORS:
            raise self.error(f"no floor {floor!r}: there are {', '.join(FLOORS)}")
        language = self.env.docname.split("/")[1]
        chapters = chapter_of_each(language)
        sections: dict[str, nodes.section] = {}
        for public in public_names():
            if room(public.module) in FLOORS[floor]:
                if public.module not in sections:
                    sections[public.module] = self.section(public.module)
                rows = sections[public.module][-1]
                rows.append(self.row(public, chapters.get(public), STRINGS[language]))
        return sorted(sections.values(), key=lambda section: FLOORS[floor].index(room(section["ids"][0])))

    def note(self, name: str, kind: str) -> None:
        """Tell the search where a name is: its anchor is the name itself."""
        domain = cast(PythonDomain, self.env.get_domain("py"))
        domain.note_object(name, kind, name, location=self.get_location())

    def section(self, module: str) -> nodes.section:
        """Return a module's section with an empty list at its end."""
        self.note(module, "module")
        told = first_sentence(modules()[module].docstring)
        rows = nodes.definition_list(classes=["package-index"], support_smartquotes=False)
        title = nodes.title("", "", nodes.literal("", module))
        return nodes.section("", title, nodes.paragraph("", "", *inline(told)), rows, ids=[module], names=[module])

    def row(self, public: Public, chapter: Chapter | None, strings: dict[str, str]) -> nodes.definition_list_item:
        """Return a name with its signature, and below it what it does and where the book has it."""
        anchor = f"{public.module}.{public.name}"
        self.note(anchor, public.kind)
        link = nodes.reference("", "", nodes.strong("", public.name), refid=anchor, internal=True)
        kind = [nodes.emphasis("", strings["class"]), nodes.Text(" ")] if public.kind == "class" else []
        term = nodes.term("", "", *kind, link, nodes.inline("", public.signature), ids=[anchor])
        told = nodes.paragraph("", "", *inline(first_sentence(public.docstring)))
        if chapter:
            words = nodes.inline("", f"{strings['chapter']} {int(chapter.manuscript.name[:2])}")
            target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/notebooks/{chapter.name}"}
            link = addnodes.pending_xref("", words, **target, refdoc=self.env.docname, refexplicit=True)
            told += [nodes.Text(" "), link]
        return nodes.definition_list_item("", term, nodes.definition("", told))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("package-index", PackageIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
