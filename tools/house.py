"""The companion package as a house, read without importing it: its floors, who imports whom, and its public names."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from sphinx.util.inspect import signature_from_ast, stringify_signature

from chapters import ROOT

PACKAGE = "llmbook"
# From the ground up: a module may import from its own floor and from those below it.
FLOORS = {
    "ground": ("files", "runtime", "results", "pretrained", "metrics", "tokenization", "corpora", "pipeline"),
    "models": (
        "attention",
        "flash",
        "positions",
        "transformer",
        "sentences",
        "interventions",
        "ngram",
        "generation",
        "hub",
    ),
    "learning": ("training", "parallel", "objectives", "finetuning", "scaling"),
    "judging": ("evaluation", "classroom"),
    "showing": ("viz", "explore"),
}
KEPT = re.compile(r"# kept in ([\w.]+)")
# Rooms that stand beside their floor, on the ground alone.
BESIDE = ("classroom",)
# Steps up that the house allows: who, whom, and why.
EXCEPTIONS = {
    ("pipeline", "ngram"): "the perplexity filter scores documents with the n-gram model of chapter 1",
}


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, whether it is a package's face, and its tree."""

    name: str
    is_package: bool
    tree: ast.Module

    @property
    def docstring(self) -> str:
        """Return the module's docstring, or an empty text."""
        return ast.get_docstring(self.tree) or ""

    @property
    def package(self) -> str:
        """Return the package that the module is in; a package's face is in itself."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Public:
    """A public name, under the module that a reader imports it from."""

    module: str  # such as llmbook.metrics
    name: str
    kind: str  # function, class or data
    signature: str  # such as (logits, labels) -> Tensor; empty for data
    docstring: str
    home: Module  # where it is defined


@cache
def modules(root: Path = ROOT) -> dict[str, Module]:
    """Read every module of the package; the keys are dotted names, in order."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, is_package, ast.parse(path.read_text(encoding="utf-8")))
    return dict(sorted(found.items()))


# --- who imports whom -----------------------------------------------------------------------------------------------


def imports(module: Module, known: dict[str, Module]) -> Iterator[tuple[str, str]]:
    """Yield the modules of the package that a module imports, inside functions too, each with the name it takes."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            parents = module.package.split(".")[: 1 - node.level or None] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            if source.split(".")[0] == PACKAGE:
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    yield (inner, "") if inner in known else (source, alias.name)


def room(name: str) -> str:
    """Return the module's part of the house: ``metrics`` of ``llmbook.metrics.edits``."""
    return name.split(".")[1] if "." in name else ""


def floor(name: str) -> int:
    """Return the number of a module's floor, 0 for the ground; the package itself and its program stand on none: -1."""
    return next((level for level, rooms in enumerate(FLOORS.values()) if room(name) in rooms), -1)


def steps_up(known: dict[str, Module]) -> list[str]:
    """Return the imports that lead to a higher floor, and the modules that stand on none."""
    problems = []
    for name, module in known.items():
        if floor(name) < 0:
            if room(name) not in ("", "__main__"):
                problems.append(f"{name} stands on no floor: add {room(name)!r} to FLOORS in tools/house.py")
            continue
        highest = 0 if room(name) in BESIDE else floor(name)
        for other, _ in imports(module, known):
            pair = room(name), room(other)
            if pair[0] != pair[1] and floor(other) > highest and pair not in EXCEPTIONS:
                problems.append(f"{name} imports {other}, which stands on a higher floor: move what both need below")
    return problems


def circles(known: dict[str, Module]) -> list[str]:
    """Return a circle of imports between modules, if there is one."""
    graph = {name: {other for other, _ in imports(module, known)} - {name} for name, module in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"modules import each other in a circle: {' <- '.join(error.args[1])}"]
    return []


def is_private(name: str) -> bool:
    """Tell whether a name begins with one underscore; ``__all__`` and ``__init__`` are not private."""
    return name.startswith("_") and not name.startswith("__")


def borrowed_privates(known: dict[str, Module]) -> list[str]:
    """Return private names that cross a module; those of a private file may be used within its package."""
    problems = []
    for name, module in known.items():
        taken = list(imports(module, known))
        aliases = {
            alias.asname or alias.name
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if f"{node.module}.{alias.name}" in known
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                taken.append((node.value.id, node.attr))
        for source, taken_name in taken:
            private_file = is_private(source.rpartition(".")[2])
            beside = source.rpartition(".")[0] == module.package
            if (is_private(taken_name) or private_file) and not (private_file and beside):
                problems.append(
                    f"{name} takes {taken_name or 'the file'} of {source}, which is private: make it public"
                )
    return problems


# --- public names ---------------------------------------------------------------------------------------------------


def _signature(node: ast.FunctionDef) -> str:
    """Return ``(parameters) -> type``."""
    return stringify_signature(signature_from_ast(node))


def _class_signature(node: ast.ClassDef) -> str:
    """Return how a class is called: by its ``__init__`` or, for a dataclass, by its fields."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            signature = signature_from_ast(child)
            parameters = list(signature.parameters.values())[1:]
            return stringify_signature(signature.replace(parameters=parameters), show_return_annotation=False)
    made = [*map(ast.unparse, node.decorator_list), *map(ast.unparse, node.bases)]
    if not any(re.match(r"(dataclasses\.)?dataclass\b|(typing\.)?NamedTuple$", text) for text in made):
        return ""
    return f"({', '.join(ast.unparse(child) for child in node.body if isinstance(child, ast.AnnAssign))})"


def _comment_above(line: int, source: list[str]) -> str:
    """Return the ``#:`` comment that ends above a line, which documents a constant."""
    words: list[str] = []
    while line > 1 and source[line - 2].startswith("#:"):
        line -= 1
        words.insert(0, source[line - 1].removeprefix("#:").strip())
    return " ".join(words)


def _definitions(module: Module, source: list[str]) -> Iterator[Public]:
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if isinstance(node, ast.ClassDef):
                kind, signature = "class", _class_signature(node)
            else:
                kind, signature = "function", _signature(node)
            yield Public(module.name, node.name, kind, signature, ast.get_docstring(node) or "", module)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            told = _comment_above(node.lineno, source)
            if isinstance(target, ast.Name) and not target.id.startswith("_") and told:
                yield Public(module.name, target.id, "data", "", told, module)


@cache
def public_names(root: Path = ROOT) -> list[Public]:
    """Return functions, classes and documented constants, each once, under the shortest path that leads to it.

    What a package's face takes from its modules belongs to the package; what else a private file has belongs to nobody.
    """
    known = modules(root)
    faces = {
        (source, name): module.name
        for module in known.values()
        if module.is_package
        for source, name in imports(module, known)
        if name and source.startswith(f"{module.name}.")
    }
    found = []
    for module in known.values():
        path = root.joinpath(*module.name.split("."))
        file = path / "__init__.py" if module.is_package else path.with_suffix(".py")
        private = any(is_private(part) for part in module.name.split("."))
        for public in _definitions(module, file.read_text(encoding="utf-8").splitlines()):
            face = faces.get((module.name, public.name))
            if face or (not private and floor(module.name) >= 0):
                found.append(Public(face or module.name, *list(vars(public).values())[1:]))
    return sorted(found, key=lambda public: (public.module, public.name.lower(), public.name))


def parse_cell(source: str) -> ast.Module:
    """Parse a notebook's cell; lines for IPython and the shell count as ``pass``."""
    return ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.MULTILINE))


def kept_definitions(source: str) -> list[tuple[str, str]]:
    """Return what a cell defines at its top, each with what the line ``# kept in llmbook.attention`` names.

    The line stands directly above the definition, or at the end of its first line. It names the module where the name
    is the same, else the module and the name: ``# kept in llmbook.transformer.Block``. Without it the text is empty.
    """
    lines = ["", *source.splitlines()]
    found = []
    for node in parse_cell(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            told = KEPT.search(lines[first - 1]) or KEPT.search(lines[node.lineno])
            path = told[1] if told else ""
            found.append((node.name, f"{path}.{node.name}" if path in modules() else path))
    return found


def uses(cells: list[str]) -> set[str]:
    """Return the dotted names of the package that code imports or takes from a module that it imports."""
    found: set[str] = set()
    aliases: dict[str, str] = {}
    for source in cells:
        for node in ast.walk(parse_cell(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
                found.add(f"{aliases[node.value.id]}.{node.attr}")
    return found | set(aliases.values())


def undocumented(known: dict[str, Module]) -> list[str]:
    """Return modules, and public functions, classes and methods, without a docstring."""
    problems = [f"{name} has no docstring" for name, module in known.items() if not module.docstring]
    for name, module in known.items():
        for node in module.tree.body:
            inner = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
            for owner, child in [("", node), *((f"{getattr(node, 'name', '')}.", child) for child in inner)]:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    missing = not child.name.startswith("_") and not ast.get_docstring(child)
                    problems += [f"{name}.{owner}{child.name} has no docstring"] * missing
    return problems


def single_backticks(known: dict[str, Module]) -> list[str]:
    """Return the literals of docstrings that stand in single backticks; roles such as :func:`x` are none."""
    problems = []
    for name, module in known.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for literal in re.findall(r"(?<![`:\w\\])`(?!`)[^`]+(?<!`)`(?!`)", ast.get_docstring(node) or ""):
                    problems.append(f"{name}: {literal} in a docstring has single backticks: write two")
    return problems
