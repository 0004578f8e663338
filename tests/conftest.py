"""What all tests share: one thread for each process, Hypothesis's examples, one browser for those that need it."""

import os

import pytest
from hypothesis import settings

# Hypothesis draws the same examples on every run of `make test`; the weekly run draws new ones (the workflow sets it).
# No deadline: on a busy machine it would measure the others' work.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Two workers with two threads each on two cores spend their time waiting for each other; set before torch is imported.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What takes long to make: real text, a kernel's outputs, a class graded, processes under torchrun. A test that asks for
# one of them is slow, as are those with the mark.
SLOW_FIXTURES = {"benchmarks", "browser", "clusters", "confined", "engine", "executed", "graded", "pydocs", "together"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that ask for a slow fixture, before `-m` chooses."""
    for item in items:
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def browser(pytestconfig):
    """One Chromium for all tests; its name is printed at the start."""
    from browsing import OPTIONS
    from playwright.sync_api import sync_playwright

    from browser import find_browser
    from chapters import Problem

    try:
        path, origin = find_browser()
    except Problem as error:
        pytest.fail(str(error), pytrace=False)
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"browser: {path} ({origin})")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=OPTIONS)


@pytest.fixture
def open_page(browser, address):
    """Open a page of the module's `address` with all other hosts blocked; `page.bytes` holds the sizes."""
    from browsing import SCREEN, new_context, watched_page

    contexts = []

    def open_page(path, theme="light", size=SCREEN):
        contexts.append(new_context(browser, theme, size))
        page = watched_page(contexts[-1], address)
        page.bytes = {}

        def finished(request):
            page.bytes[request.url] = len(request.response().body())

        page.on("requestfinished", finished)
        page.goto(f"{address}/{path}", wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def engine():
    """The experiment of a benchmark's chapter: `engine(ch09_objectives)` is a new module each time."""
    import recording
    from llmbook import runtime

    return lambda benchmark, **given: recording.chapter(benchmark.CHAPTER, **({"rt": runtime.setup()} | given))
