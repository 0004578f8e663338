"""The program llmbook: evaluate judges a model on the book's benchmarks, grade the notebooks of a class."""

import argparse
import importlib
import sys
from collections.abc import Sequence

# Each module has SUMMARY, add_arguments(parser) and run(arguments); only the one that was asked for is imported,
# besides the ones whose help is printed.
COMMANDS = {"evaluate": "llmbook.evaluation.command", "grade": "llmbook.classroom.command"}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status; 2 with one line where what was given cannot be used."""
    words = list(sys.argv[1:] if words is None else words)
    chosen = [name for name in COMMANDS if words[:1] == [name]] or list(COMMANDS)
    parser = argparse.ArgumentParser(prog="llmbook", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    modules = {name: importlib.import_module(COMMANDS[name]) for name in chosen}
    for name, module in modules.items():
        module.add_arguments(commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY))
    arguments = parser.parse_args(words)
    try:
        return modules[arguments.command].run(arguments)
    except (ValueError, OSError) as error:
        print(f"llmbook {arguments.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
