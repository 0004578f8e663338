"""Pin the text of the corpora to the versions that are installed: write llmbook/corpora/sources.json anew.

Run it after `make lock` and `make venv` where the corpora shall follow the new versions. That changes the data of every
chapter: `make notebooks`, the models that the book ships and the records of the benchmarks follow. Of each source it
takes the smallest wheel on the package index that has the text of what is installed; of the standard library Python's
source archive. Where a source's text is as before, so is its archive.
"""

import argparse
import json
import re
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chapters import Problem, report
from llmbook.corpora import describe, installed, sources
from llmbook.corpora.own import PINNED
from llmbook.files import write_whole

INDEX = "https://pypi.org/simple"
PYTHON = "https://www.python.org/ftp/python/{0}/Python-{0}.tgz"
# Wheels for other Pythons hold the same text; those for one are enough.
WHEEL = re.compile(r"-(py3|py2\.py3|cp311)-(none|abi3|cp311)-[^-]+\.whl")


def wheels(package: installed.Package, version: str) -> Iterator[sources.Archive]:
    """Yield a package's wheels of a version, the smallest first.

    Raises:
        Problem: the index cannot be reached.
    """
    address = f"{INDEX}/{re.sub(r'[-_.]+', '-', package.name).lower()}/"
    request = urllib.request.Request(address, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            files = json.load(answer)["files"]
    except OSError as error:
        raise Problem(f"{address}: {error} (sources.json is as it was)") from error
    for file in sorted(files, key=lambda file: file["size"]):
        if f"-{version}-" in file["filename"] and WHEEL.search(file["filename"]):
            yield sources.Archive(file["url"], file["hashes"]["sha256"], file["size"], package.module)


def same_files(place: Path, folder: Path) -> bool:
    """Tell whether every file that was fetched is, to the byte, one of those installed: no need to parse it."""
    pairs = [(path, folder / path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    return all(other.is_file() and path.read_bytes() == other.read_bytes() for path, other in pairs)


def with_text(
    corpus: sources.Corpus, package: installed.Package, found: dict[str, Any], candidates: list[sources.Archive]
) -> sources.Archive:
    """Return the first archive that holds what a corpus takes from a source, read from a copy of its own.

    Raises:
        Problem: there is none.
    """
    name = package.name
    wanted = sources.Wanted(corpus.suffixes, tuple(found.get("files", ())), tuple(found.get("modules", ())))
    for archive in candidates:
        print(f"{corpus.name}, {name}: {archive.url.rpartition('/')[2]}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                place = sources.fetch_archive(name, archive, wanted, Path(folder))
            except sources.FetchError as error:
                print(error)
                if name == installed.STANDARD_LIBRARY:
                    print("It is pinned by the hash that was given, untried.")
                    return archive
                continue
            if same_files(place, installed.package_folder(package)):
                return archive
            if sources.text_hash(corpus.text(read(corpus, name, place, found))) == found["text"]:
                return archive
    raise Problem(f"no archive of {name} {found['version']} has the text that {corpus.name} takes from it as installed")


def read(corpus: sources.Corpus, name: str, place: Path, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a corpus reads in a source's folder."""
    rows = corpus.select({name: place})[name] if not corpus.suffixes else corpus.read({name: place})[name]
    return [row for row in rows if row["path"] in found["files"]] if not corpus.suffixes else rows


def pin(known: dict[str, Any], python_sha256: str) -> dict[str, Any]:
    """Return the content of sources.json for what is installed, given the content that it has.

    Raises:
        Problem: the index cannot be reached, or has no archive with the text that is installed.
    """
    content: dict[str, Any] = {"archives": {}, "corpora": {}}
    for corpus in PINNED.values():
        rows = corpus.select({package.name: installed.package_folder(package) for package in corpus.packages})
        pinned = {}
        for package in corpus.packages:
            name, version = package.name, sources.installed_version(package.name)
            found: dict[str, Any] = {"version": version, "text": sources.text_hash(corpus.text(rows[name]))}
            if not corpus.suffixes:
                found["files"] = [row["path"] for row in rows[name]]
                for row in rows[name]:
                    if sources.MODULE_TABLE.fullmatch(row["path"]):
                        found["modules"] = sources.built_in_modules(row["text"])
            before = known["corpora"].get(corpus.name, {}).get("sources", {}).get(name, {})
            if before and found == {key: value for key, value in before.items() if key != "archive"}:
                archive = sources.Archive(**known["archives"][before["archive"]])
            elif name == installed.STANDARD_LIBRARY:
                if not python_sha256:
                    raise Problem(f"give --python-sha256, the hash of {PYTHON.format(version)} (see python.org)")
                address = PYTHON.format(version)
                candidates = [sources.Archive(address, python_sha256, 0, f"Python-{version}/Lib")]
                archive = with_text(corpus, package, found, candidates)
            else:
                archive = with_text(corpus, package, found, list(wheels(package, version)))
            file = archive.url.rpartition("/")[2]
            content["archives"][file] = archive._asdict()
            pinned[name] = found | {"archive": file}
        content["corpora"][corpus.name] = {
            "recipe": corpus.recipe,
            "sha256": describe(corpus.assemble(rows))["sha256"],
            "suffixes": list(corpus.suffixes),
            "sources": pinned,
        }
    return content


def main(arguments: list[str]) -> int:
    """Write sources.json, and print the fingerprints."""
    parser = argparse.ArgumentParser(description="Pin the text of the corpora to the versions that are installed.")
    parser.add_argument("--python-sha256", default="", help="the hash of Python's source archive, for a new Python")
    options = parser.parse_args(arguments)
    known: dict[str, Any] = {"archives": {}, "corpora": {}}
    if sources.PINS.exists():
        known = json.loads(sources.PINS.read_text(encoding="utf-8"))
    try:
        content = pin(known, options.python_sha256)
    except Problem as problem:
        return report([str(problem)])
    write_whole(sources.PINS, json.dumps(content, indent=1) + "\n")
    for name, corpus in content["corpora"].items():
        print(name, corpus["sha256"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
