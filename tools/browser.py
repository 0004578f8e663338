"""Find a browser for the tests of the site: one that is there, or else one that can be installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from chapters import Problem, install_debian, report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> tuple[str, str]:
    """Return the path of a Chromium and where it comes from; install one where there is none."""
    chosen = os.environ.get("LLMBOOK_BROWSER")
    if chosen:
        if not shutil.which(chosen):
            raise Problem(f"LLMBOOK_BROWSER={chosen} is no program: give the path of Chromium or Chrome")
        return chosen, "LLMBOOK_BROWSER"
    if path := installed():
        return path, "installed on this machine"
    if path := downloaded():
        return path, "downloaded by Playwright before"
    install_debian("chromium", "browser")
    if path := installed():
        return path, "Debian's, installed just now"
    print("no browser found: downloading Playwright's chromium", flush=True)
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], stdout=subprocess.DEVNULL)
    if path := downloaded():
        return path, "downloaded by Playwright just now"
    raise Problem("no browser can be had: install chromium (Debian) or Chrome, or name one in LLMBOOK_BROWSER")


def installed() -> str | None:
    """Return a browser on the path."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def downloaded() -> str | None:
    """Return Playwright's own browser, where it has been downloaded."""
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def main() -> int:
    """Say which browser the tests would use."""
    try:
        print(*find_browser(), sep=": ")
    except Problem as problem:
        return report([str(problem)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
