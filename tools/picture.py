"""Take the README's picture: the first screen of the built site, as a reader sees it (``make picture``)."""

from __future__ import annotations

import io

from PIL import Image
from playwright.sync_api import sync_playwright

from browser import find_browser
from chapters import ROOT

PICTURE = ROOT / "book" / "_static" / "landing.png"


def main() -> None:
    """Open the landing page and store what it shows."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser()[0], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        page.goto((ROOT / "_build" / "html" / "book" / "en" / "index.html").as_uri())
        page.wait_for_timeout(1000)
        shot = page.screenshot()
        browser.close()
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
