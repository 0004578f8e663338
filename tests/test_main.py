"""The program `llmbook`: commands, and what it says when it cannot go on."""

import importlib
import sys
from types import SimpleNamespace

import pytest

from llmbook import __main__ as program


@pytest.fixture
def commands(monkeypatch):
    """Two commands: one that fails as it is told, one that must not be imported."""

    def run(arguments):
        if arguments.fail:
            raise {"value": ValueError, "file": FileNotFoundError}[arguments.fail](
                "no model there: name another folder"
            )
        return 0

    module = SimpleNamespace(SUMMARY="Work.", run=run, add_arguments=lambda parser: parser.add_argument("--fail"))
    monkeypatch.setattr(program, "COMMANDS", {"work": "tests.work", "broken": "tests.no_such_module"})
    monkeypatch.setitem(sys.modules, "tests.work", module)


def test_command_runs_without_the_others(commands):
    assert program.main(["work"]) == 0


@pytest.mark.parametrize("kind", ["value", "file"])
def test_what_cannot_be_used_is_one_line(commands, capsys, kind):
    assert program.main(["work", "--fail", kind]) == 2
    assert capsys.readouterr().err == "llmbook work: no model there: name another folder\n"


@pytest.mark.parametrize("name", program.COMMANDS)
def test_each_command_has_a_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main([name, "--help"])
    assert ended.value.code == 0
    assert importlib.import_module(program.COMMANDS[name]).SUMMARY.split()[0] in capsys.readouterr().out


def test_unknown_command_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(["train"])
    assert ended.value.code == 2
    assert "{evaluate,grade}" in capsys.readouterr().err
