"""Change the repository's address everywhere, or find places that disagree with `_config.yml`: `make address URL=...`.

Notebooks are changed as text: their outputs stay, and nothing has to be executed again. No index has the package, so a
command that installs it without the address is found too: anybody could register the name there.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from chapters import ROOT, Problem, report, repository_url
from llmbook.files import write_whole

FILES = (
    "*.md",
    "*.cff",
    "*.toml",
    "*.yml",
    "LICENSE*",
    "package.json",
    ".github/workflows/*.yml",
    "assignments/*.md",
    "benchmarks/*.py",
    "book/**/*.md",
    "book/**/*.html",
    "book/**/*.js",
    "book/**/*.py",
    "llmbook/**/*.md",
    "llmbook/**/*.py",
    "notebooks/*/*.ipynb",
    # last: a change that was stopped before it starts again from the address that still stands here
    "_config.yml",
)
PACKAGE = "llmbook"
PLACEHOLDER_OWNER = "your_organisation"
LAUNCHERS = ("colab.research.google.com/github/", "mybinder.org/v2/gh/")
ADDRESS = re.compile(
    r"(?P<host>github\.com/|raw\.githubusercontent\.com/|" + "|".join(map(re.escape, LAUNCHERS)) + ")"
    r"(?P<owner>[\w-]+)/(?P<name>[\w-]+(?:\.(?!git\b)[\w-]+)*)"
)
# GitHub Pages has the owner in its host's name
PAGES = re.compile(r"(?<![\w-])(?P<owner>[\w-]+)(?P<host>\.github\.io/)(?P<name>[\w-]+(?:\.[\w-]+)*)")
# The package behind `install`, its options and other packages, without the @ of an address; a line may break before it.
NO_ADDRESS = re.compile(
    r"(?:\b(?:pipx?|pip3|conda|mamba)\s+install|\buv\s+add)"
    r"(?:\s+(?:-\S+\s+)*[\s\"'\\]*|[^`;&|\n]*[ \t\"'])" + PACKAGE + r"(?![\w/-]|\.\w)(?:\[[^\]\n]*\])?+(?!\s*@)"
)
TEXTS = {".cff", ".html", ".js", ".md", ".py", ".toml", ".txt", ".yml"}
# made from the others, or not ours
NOT_SOURCES = {"_build", "node_modules", "notebooks"}
ALLOWED = re.compile(
    r"https://github\.com/(?P<owner>[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38})/(?P<name>[\w.-]{1,100}?)(?:\.git)?/?"
)

Slug = tuple[str, str]


def current(root: Path) -> Slug:
    """Return owner and name as `_config.yml` has them."""
    owner, name = repository_url(root).removeprefix("https://github.com/").split("/")
    return owner, name


def parse(url: str) -> Slug:
    """Return owner and name of an address that GitHub could have given."""
    found = ALLOWED.fullmatch(url)
    if not found:
        raise Problem(f"URL={url!r} is no repository on GitHub: write make address URL=https://github.com/owner/name")
    return found["owner"], found["name"]


def files(root: Path) -> Iterator[Path]:
    """Yield each file that may hold the address, `_config.yml` last."""
    found = {path: None for pattern in FILES for path in sorted(root.glob(pattern)) if path.name != "_config.yml"}
    yield from found
    yield root / "_config.yml"


def replace(text: str, old: Slug, new: Slug) -> str:
    """Return a text with the one address in place of the other, in every form it takes."""

    def change(match: re.Match[str]) -> str:
        if (match["owner"], match["name"]) != old:
            return match[0]
        if match.re is PAGES:
            return f"{new[0]}{match['host']}{new[1]}"
        return f"{match['host']}{new[0]}/{new[1]}"

    return PAGES.sub(change, ADDRESS.sub(change, text))


def strays(root: Path = ROOT) -> list[str]:
    """Return a line for each address that looks like this repository's and is another."""
    ours = current(root)
    names = {ours[1], PACKAGE}
    problems = []
    for path in files(root):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for match in (*ADDRESS.finditer(line), *PAGES.finditer(line)):
                alike = match["name"] in names or match["host"] in LAUNCHERS or match["owner"] == PLACEHOLDER_OWNER
                if alike and (match["owner"], match["name"]) != ours:
                    place = f"{path.relative_to(root)}:{number}"
                    problems.append(f"{place}: {match[0]} is not {'/'.join(ours)} (_config.yml): correct it by hand")
    return problems


def texts(root: Path) -> Iterator[Path]:
    """Yield each text file of the sources, whether or not it may hold the address; notebooks are made from them."""
    for entry in sorted(root.iterdir()):
        if entry.name in NOT_SOURCES or (entry.name.startswith(".") and entry.name != ".github"):
            continue
        found = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
        yield from (path for path in found if path.suffix in TEXTS and path.is_file())


def installs_without_address(root: Path = ROOT) -> list[str]:
    """Return a line for each command in the sources that would install the package from an index."""
    remedy = f'write "{PACKAGE} @ git+{repository_url(root)}", or name the package that is needed'
    problems = []
    for path in texts(root):
        text = path.read_text(encoding="utf-8")
        for match in NO_ADDRESS.finditer(text):
            place = f"{path.relative_to(root)}:{text.count(chr(10), 0, match.start()) + 1}"
            problems.append(f"{place}: {' '.join(match[0].split())} has no address, and no index has it: {remedy}")
    return problems


def placeholder_note(root: Path = ROOT) -> str:
    """Return a line that says how many addresses still have the placeholder for their owner; none left, none said."""
    counts = []
    for path in files(root):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if PLACEHOLDER_OWNER in line]
        found = [match["owner"] for line in lines for match in (*ADDRESS.finditer(line), *PAGES.finditer(line))]
        counts.append(found.count(PLACEHOLDER_OWNER))
    if not any(counts):
        return ""
    return (
        f"the repository's address is still a placeholder, {PLACEHOLDER_OWNER}, in {sum(counts)} places of "
        f"{sum(map(bool, counts))} files: before you publish, `make address URL=https://github.com/owner/name` sets all"
    )


def change(root: Path, url: str) -> list[Path]:
    """Put the address in every place; return the files that changed."""
    new, old = parse(url), current(root)
    changed = []
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        replaced = replace(text, old, new)
        if replaced != text:
            write_whole(path, replaced)
            changed.append(path)
    return changed


def main() -> int:
    """Parse the command line of `make address`."""
    parser = argparse.ArgumentParser(description="Change the repository's address everywhere, or find strays.")
    parser.add_argument("url", nargs="?", default="", help="https://github.com/owner/name")
    parser.add_argument("--check", action="store_true", help="change nothing; list what disagrees")
    arguments = parser.parse_args()
    try:
        if not arguments.check:
            for path in change(ROOT, arguments.url):
                print(path.relative_to(ROOT))
        return report([*strays(ROOT), *installs_without_address(ROOT)])
    except Problem as problem:
        return report([str(problem)])


if __name__ == "__main__":
    sys.exit(main())
