"""Print the built site, or one chapter of it: ``make pdf``, ``make pdf CHAPTER=03-attention``.

Chromium lays the pages out as it shows them: equations, diagrams and figures are those of the site, and what moves on
the screen is replaced by its still picture. The whole book is put together in one document, in the order of
``_toc.yml``, so that its outline, its page numbers and the links between chapters are those of a book.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from browser import find_browser
from chapters import ROOT, Problem, report, toc_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page, ViewportSize

SITE = ROOT / "_build" / "html"
TARGET = ROOT / "_build" / "pdf"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
# Pixels of the text's area on A4: what is drawn by scripts is drawn for it.
PAPER: ViewportSize = {"width": 665, "height": 980}
PATIENCE = 600_000  # milliseconds for a document of hundreds of pages
STYLE = """
html, body { background: #fff !important; }
h1, h2, h3, h4 { break-after: avoid; }
article ~ article h1 { font-size: 2.5rem !important; }
article ~ article h1::before { content: none !important; }
figure, .diagram { break-inside: avoid; }
.cell_output, .cell_output div, details, table { break-inside: auto !important; overflow: visible !important; }
tr { break-inside: avoid; }
article td, article th { white-space: normal !important; overflow-wrap: anywhere; }
.lm-hidden { display: none; }
"""
FOOTER = (
    '<div style="font:8px sans-serif;width:100%;padding:0 15mm;display:flex;justify-content:space-between;color:#555">'
    '<span class="title"></span><span class="pageNumber"></span></div>'
)

# Puts the pages named in `paths` behind the first: names of places get a prefix, addresses become whole ones, and a
# link to another page of the book becomes a link within the document.
GATHER = """async (paths) => {
  const first = document.querySelector("article");
  const pages = new Map(paths.map((path, index) => [new URL(path, document.baseURI).pathname, index]));
  const mark = (index, name) => `page-${index}${name ? `-${name}` : ""}`;
  const settle = (article, index, base) => {
    // a script that came with a fetched page is dead; those of the views of attention draw their lines
    for (const node of article.querySelectorAll("script")) {
      const live = document.createElement("script");
      live.textContent = node.textContent;
      if (index && node.closest(".lm-attention")) node.replaceWith(live);
      else node.remove();
    }
    for (const node of [article, ...article.querySelectorAll("[id]")])
      if (node.id && !node.closest("svg")) node.id = mark(index, node.id); // a drawing names its own parts
    for (const name of ["for", "aria-labelledby", "aria-describedby"])
      for (const node of article.querySelectorAll(`[${name}]`))
        node.setAttribute(name, node.getAttribute(name).split(" ").map((id) => mark(index, id)).join(" "));
    for (const node of article.querySelectorAll("[src]")) node.src = new URL(node.getAttribute("src"), base).href;
    for (const node of article.querySelectorAll("a[href]")) {
      const url = new URL(node.getAttribute("href"), base);
      const to = url.origin === location.origin ? pages.get(url.pathname) : undefined;
      node.setAttribute("href", to === undefined ? url.href : `#${mark(to, decodeURIComponent(url.hash.slice(1)))}`);
    }
    const start = document.createElement("span");
    start.id = mark(index, "");
    article.prepend(start);
  };
  const parser = new DOMParser(), styles = new Set(), loading = [];
  for (const link of document.querySelectorAll("link[rel=stylesheet]")) styles.add(link.href);
  for (const [path, index] of pages) {
    if (!index) continue;
    const other = parser.parseFromString(await (await fetch(path)).text(), "text/html");
    for (const style of other.querySelectorAll("head style, body > style"))
      if (!styles.has(style.textContent)) {
        styles.add(style.textContent);
        document.head.append(document.importNode(style, true));
      }
    for (const link of other.querySelectorAll("link[rel=stylesheet]")) {
      const href = new URL(link.getAttribute("href"), new URL(path, document.baseURI)).href;
      if (styles.has(href)) continue;
      styles.add(href);
      const copy = Object.assign(document.createElement("link"), {rel: "stylesheet", href});
      loading.push(new Promise((resolve) => (copy.onload = copy.onerror = resolve)));
      document.head.append(copy);
    }
    const article = document.importNode(other.querySelector("article"), true);
    article.style.breakBefore = "page";
    first.parentElement.append(article);
    settle(article, index, new URL(path, document.baseURI));
  }
  settle(first, 0, new URL(document.baseURI));
  await Promise.all(loading);
}"""

# Everything that a reader would have to press or scroll to stands open and is there.
UNFOLD = """async () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const image of document.images) image.loading = "eager";
  for (const frame of document.querySelectorAll("iframe")) frame.remove();
  for (const still of document.querySelectorAll(".lm-bertviz > img[hidden], .lmx-still[hidden]")) still.hidden = false;
  await document.fonts.ready;
  // paper does not scroll: what is still too wide gets smaller
  for (const table of document.querySelectorAll("article table")) {
    const room = table.closest("article").getBoundingClientRect().right - table.getBoundingClientRect().left;
    const width = table.getBoundingClientRect().width;
    if (width > room) table.style.zoom = room / width;
  }
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  return [...document.images].filter((image) => !image.naturalWidth).map((image) => image.src);
}"""


def toc_pages() -> list[str]:
    """Return the built pages in the order of the table of contents."""
    return [f"{name}.html" for name in toc_files()]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to this machine alone, and give its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def write(page: Page, address: str, paths: list[str], target: Path) -> None:
    """Print the pages into one file."""
    page.goto(f"{address}{paths[0]}", wait_until="networkidle")
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.add_style_tag(content=STYLE)
    page.evaluate(GATHER, [f"{address}{path}" for path in paths])
    missing = page.evaluate(UNFOLD)
    if missing:
        raise Problem(f"{len(missing)} pictures are not in the site, {missing[0]} first: run `make book`")
    target.parent.mkdir(parents=True, exist_ok=True)
    page.pdf(
        path=target, format="A4", outline=True, tagged=True, print_background=True, display_header_footer=True,
        header_template="<span></span>", footer_template=FOOTER,
        margin={"top": "18mm", "bottom": "20mm", "left": "17mm", "right": "17mm"},
    )  # fmt: skip


def select(chapter: str) -> list[str]:
    """Return the pages to print: all, or those whose name is or ends with ``chapter``."""
    pages = toc_pages()
    if not chapter:
        return pages
    found = [path for path in pages if chapter in (path.removesuffix(".html"), Path(path).stem)]
    if not found:
        names = ", ".join(Path(path).stem for path in pages)
        raise Problem(f"CHAPTER={chapter!r} is no page of _toc.yml: there are {names}")
    return found


def main() -> int:
    """Build the site where it is not up to date, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", nargs="?", default="", help="one page, as 03-attention; by default all")
    arguments = parser.parse_args()
    from playwright.sync_api import Error, sync_playwright

    try:
        paths = select(arguments.chapter)
        build = [sys.executable, str(ROOT / "tools" / "build_site.py"), "--if-changed"]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        target = TARGET / f"{Path(paths[0]).stem if arguments.chapter else 'book'}.pdf"
        with served(SITE) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_browser()[0], args=FLAGS)
            page = browser.new_page(viewport=PAPER, reduced_motion="reduce")
            page.set_default_timeout(PATIENCE)
            write(page, address, paths, target)
            browser.close()
    except Problem as problem:
        return report([str(problem)])
    except subprocess.CalledProcessError:
        return 1  # the build has said why
    except (OSError, Error) as error:
        return report([f"the book cannot be printed: {str(error).splitlines()[0]}"])
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
