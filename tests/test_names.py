"""One name means one thing in the package, and one thing has one name."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llmbook"

#: Public names that stand in several modules, and why a reader does not mistake one for the other.
SHARED = {
    "Floats": "the same alias each time, an array of float64",
    "Row": "a row of a data set, as its `rows` are passed on: tokens in fine-tuning, text in evaluation",
    "add_arguments": "what `llmbook.__main__` asks of the module of each command",
    "asset": "the text of a file of the own package, in both packages that put files into a page",
    "fit": "fits a model to data in both; one is called by its module, as `item_response.fit`",
    "log_likelihoods": "of answers given prompts in both: as our scorer computes them, as the harness kept them",
    "main": "where a program begins",
    "pack": "`pack` and `unpack` of the sandbox's protocol, which no reader calls, and the field's word for sequences",
    "run": "what the module is for, called by its module: a command, a sandbox, a harness, a pipeline",
    "simulate": "answers drawn from the model of the module, called by it",
}

#: Parameters that have another name here, and that name.
RENAMED = {"draws": "resamples", "new": "max_new_tokens"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_names(tree: ast.Module) -> Iterator[str]:
    """Yield functions, classes and aliases of types of a module."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            yield from (name for name in names if not name.isupper() and len(name) > 1)


def parameters(tree: ast.Module) -> Iterator[tuple[Function, ast.arg]]:
    """Yield the parameters of public functions and methods."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and (not node.name.startswith("_") or node.name == "__init__"):
            for parameter in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                yield node, parameter


def wrong_name(parameter: ast.arg) -> str | None:
    """Return what a parameter should be called instead, or ``None``."""
    kind = ast.unparse(parameter.annotation) if parameter.annotation else ""
    if parameter.arg == "batch" and kind.startswith("int"):
        return "batch_size"
    if parameter.arg == "generator" and "np.random" in kind:
        return "rng: `generator` is torch's"
    if parameter.arg == "rng" and "torch" in kind:
        return "generator: `rng` is numpy's"
    return RENAMED.get(parameter.arg)


def modules() -> dict[str, ast.Module]:
    """Return the modules of the package."""
    return {
        str(path.relative_to(PACKAGE.parent)): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }


@pytest.mark.slow
def test_a_public_name_stands_for_one_thing():
    places = defaultdict(set)
    for path, tree in modules().items():
        for name in public_names(tree):
            if not name.startswith("_"):
                places[name].add(path)
    several = {name: sorted(paths) for name, paths in places.items() if len(paths) > 1}
    unexplained = {name: paths for name, paths in several.items() if name not in SHARED}
    assert not unexplained, f"rename all but one, or say in SHARED why not: {unexplained}"
    assert not SHARED.keys() - several.keys(), "these names stand in one module by now: take them out of SHARED"


def test_a_parameter_is_called_the_same_everywhere():
    wrong = [
        f"{path}:{parameter.lineno}: {function.name}({parameter.arg}=) -> {better}"
        for path, tree in modules().items()
        for function, parameter in parameters(tree)
        if (better := wrong_name(parameter))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "better"),
    [("batch: int", "batch_size"), ("batch: Batch", None), ("draws=3", "resamples"), ("rng: np.random.Generator", None),
     ("generator: np.random.Generator", "rng"), ("rng: torch.Generator", "generator")],
)  # fmt: skip
def test_names_of_parameters_that_are_noticed(code, better):
    (_, parameter), *_ = parameters(ast.parse(f"def f({code}): ..."))
    assert (wrong_name(parameter) or "None").startswith(str(better))
