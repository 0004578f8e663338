"""Every link inside the built site leads to a page and an anchor that are there, and no resource to another host."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
RESOURCES = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


@pytest.fixture(scope="module")
def soups():
    subprocess.run([sys.executable, ROOT / "tools" / "build_site.py", "--if-changed"], check=True)
    pages = [path for path in sorted(SITE.rglob("*.html")) if SITE / "_static" not in path.parents]
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in pages}


def test_internal_links_resolve(soups):
    anchors = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in soups.items()}
    broken = []
    for path, soup in soups.items():
        for link in soup.find_all("a", href=True):
            url = urlsplit(link["href"])
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            fragment = unquote(url.fragment)
            missing_anchor = fragment and target in anchors and fragment not in anchors[target] | {"top"}
            if not target.is_file() or missing_anchor:
                broken.append(f"{path.relative_to(SITE)} -> {link['href']}")
    assert broken == []


def test_resources_are_served_from_the_site(soups):
    foreign, missing = [], []
    for path, soup in soups.items():
        for name, attribute in RESOURCES.items():
            for tag in soup.find_all(name, **{attribute: True}):
                url = urlsplit(tag[attribute])
                if not url.path and not url.netloc:
                    continue
                if url.netloc:
                    foreign.append(f"{path.relative_to(SITE)}: {tag[attribute]}")
                elif url.scheme != "data" and not (path.parent / unquote(url.path)).is_file():
                    missing.append(f"{path.relative_to(SITE)}: {tag[attribute]}")
    assert foreign == []
    assert missing == []


def test_style_sheets_name_no_other_host(soups):
    sheets = (SITE / "_static").rglob("*.css")
    assert [str(path) for path in sheets if re.search(r"(?:url\(|@import)\W*(?:https?:|//)", path.read_text())] == []
