"""What the tests in a browser share: a server of files, a page whose every other host is blocked, axe-core."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Frame, Page, Route

ROOT = Path(__file__).resolve().parents[1]
SCREEN, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder, and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def build_site(root: Path) -> Path:
    """Build a copy of the book with its own tool, and return the folder of the site; a failure is its last words."""
    result = subprocess.run([sys.executable, root / "tools" / "build_site.py"], capture_output=True, text=True)
    if result.returncode:
        pytest.fail(result.stderr, pytrace=False)
    return Path(result.stdout.strip()).parent


def watched_page(context: BrowserContext, *addresses: str) -> Page:
    """A page that may ask these addresses; `complaints` holds what went wrong."""
    page = context.new_page()
    page.complaints = []

    def route(route: Route):
        if route.request.url.startswith((*addresses, "data:", "blob:", "about:")):
            route.continue_()
        else:
            page.complaints.append(f"asks another host: {route.request.url}")
            route.abort()

    def answered(response):
        if response.status >= 400:
            page.complaints.append(f"{response.status}: {response.url}")

    context.route("**/*", route)
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("requestfailed", lambda request: page.complaints.append(f"failed: {request.url}"))
    page.on("response", answered)
    return page


def new_context(browser: Browser, theme: str = "light", size: dict[str, int] = SCREEN, **options) -> BrowserContext:
    return browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce", **options)


def serious_barriers(page: Page | Frame) -> list[str]:
    """What axe-core finds of WCAG A and AA, with the place and the figures of its complaint."""
    page.evaluate((ROOT / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})")
    return [
        f"{rule['id']}: {node['html'][:120]} ({node['failureSummary'].splitlines()[-1].strip()})"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]
