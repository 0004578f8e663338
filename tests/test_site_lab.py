"""Interactive attention views in JupyterLab: a real server, a real Chromium, every other host blocked."""

import os
import socket
import subprocess
import time
import urllib.request

import nbformat
import numpy as np
import pytest
from browsing import ROOT, new_context, watched_page
from playwright.sync_api import expect

from llmbook import viz

CODE = """
import numpy as np
from llmbook import viz
weights = np.tri(24) / np.arange(1, 25)[:, None] * np.ones((2, 3, 1, 1))
tokens = [f"token{index}" for index in range(24)]
viz.show_attention(attention=weights, tokens=tokens, view="VIEW")
""".strip()


EXPLORE = """
import torch
from llmbook.explore import explore, pictures
from llmbook.transformer import Decoder, TransformerConfig
torch.manual_seed(0)
model = Decoder(TransformerConfig(5, d_model=16, num_layers=2, num_heads=2, d_ff=16))
explore(model, "abcab", symbols=["<s>", *"abcd"])
""".strip()


def write_notebook(path, *cells):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": kernel}), path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with settings, kernels' files and notebooks of its own."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(CODE.replace("VIEW", view)) for view in ("head", "model")]
    write_notebook(folder / "views.ipynb", *cells)
    cells = [nbformat.v4.new_code_cell(code) for code in (EXPLORE, 'pictures.masks("abcd")')]
    write_notebook(folder / "explore.ipynb", *cells)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{name}_DIR": str(folder / "own" / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    options = {
        "ServerApp.root_dir": folder,
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.open_browser": False,
        "IdentityProvider.token": "",
        "ServerApp.allow_root": True,
        "LabApp.expose_app_in_browser": True,
        "LabApp.workspaces_dir": folder / "own" / "workspaces",
        "LabApp.user_settings_dir": folder / "own" / "settings",
        "LabApp.extension_manager": "readonly",
        "LabApp.news_url": None,
    }
    command = [ROOT / ".venv" / "bin" / "jupyter", "lab", *(f"--{key}={value}" for key, value in options.items())]
    with (folder / "log").open("w") as log:
        environment = {**os.environ, **places, "JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": ""}
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).read()
                break
            except OSError:
                if server.poll() is not None:
                    break
                time.sleep(0.25)
        else:
            pytest.fail("JupyterLab did not start in a minute")
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended: {(folder / 'log').read_text()[-2000:]}", pytrace=False)
        yield address, folder
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()  # its kernels end themselves when it is gone
            server.wait()


@pytest.fixture(scope="module")
def lab_page(browser, lab):
    address, _ = lab
    context = new_context(browser)
    page = watched_page(context, address, address.replace("http", "ws"))
    yield page
    context.close()


def open_notebook(page, lab, name):
    page.goto(f"{lab[0]}/lab/tree/{name}?reset")  # no tab from before
    page.locator(".jp-NotebookPanel:visible .jp-CodeCell").first.wait_for(timeout=60_000)


def execute(page, command, arguments="{}"):
    page.evaluate(f"void window.jupyterapp.commands.execute('{command}', {arguments})")


def run_all(page):
    """Run all cells once the kernel waits, and wait until the last has been counted."""
    page.get_by_text("| Idle").wait_for(timeout=60_000)
    execute(page, "notebook:run-all-cells")
    counted = "prompt => /\\d/.test(prompt.textContent)"
    prompts = "[...document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell .jp-InputPrompt')]"
    page.wait_for_function(f"{prompts}.every({counted})", timeout=60_000)
    page.get_by_text("| Idle").wait_for(timeout=60_000)


def drawn(page, number):
    """Scroll to an output, wait for its view, and return the view's frame."""
    figure = page.locator(".jp-NotebookPanel:visible .jp-OutputArea .lm-bertviz").nth(number)
    figure.scroll_into_view_if_needed()
    expect(figure.locator("img")).to_be_hidden(timeout=30_000)
    return figure.locator("iframe").element_handle().content_frame()


def complaints(page):
    """What concerns the views: JupyterLab itself complains of settings that are not there yet."""
    return [text for text in page.complaints if "/lab/api/" not in text and "status of 404" not in text]


def test_views_draw_run_again_follow_the_theme_and_outlive_the_kernel(lab_page, lab):
    page = lab_page
    open_notebook(page, lab, "views.ipynb")
    for _ in range(2):
        run_all(page)
        for number in range(2):
            assert drawn(page, number).locator("#vis svg line").count() > 500
    assert page.locator(".jp-OutputArea .lm-bertviz").count() == 2
    assert page.locator(".jp-OutputArea .lm-bertviz iframe").count() == 2
    frame = drawn(page, 0)
    frame.locator("#left text", has_text="token5").hover()
    assert frame.locator("line[visibility=visible]").count() == 24 * 3
    assert "dark" not in frame.evaluate("({...document.documentElement.dataset})")
    execute(page, "apputils:change-theme", '{theme: "JupyterLab Dark"}')
    inside = page.frame_locator(".jp-OutputArea .lm-bertviz iframe").first
    inside.locator("html[data-dark] #vis svg line").first.wait_for(state="attached")
    assert page.evaluate("[typeof jQuery, typeof d3]") == ["undefined"] * 2

    # saved, closed and opened again
    execute(page, "docmanager:save")
    saved = lab[1] / "views.ipynb"
    deadline = time.monotonic() + 30
    while saved.read_text().count("lm-bertviz") < 2 and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    open_notebook(page, lab, "views.ipynb")
    assert drawn(page, 1).locator("#vis svg line").count() > 500
    assert complaints(page) == []


def test_picture_stands_in_where_a_notebook_is_not_trusted(lab_page, lab):
    page, (_, folder) = lab_page, lab
    view = viz.show_attention(attention=np.eye(3), tokens="abc", view="head", label="Each to itself")
    output = nbformat.v4.new_output("display_data", data=view._repr_mimebundle_())
    write_notebook(folder / "foreign.ipynb", nbformat.v4.new_code_cell("1", outputs=[output], execution_count=1))
    open_notebook(page, lab, "foreign.ipynb")
    output = page.locator(".jp-NotebookPanel:visible .jp-OutputArea").first
    picture = output.locator("img")
    expect(picture).to_be_visible()
    assert picture.get_attribute("alt") == "Each to itself" and picture.bounding_box()["width"] > 200
    assert output.locator("iframe, script").count() == 0
    assert output.locator("details summary").text_content() == "The strongest weights of each head"


def test_model_runs_in_an_output_and_follows_the_theme(lab_page, lab):
    page = lab_page
    open_notebook(page, lab, "explore.ipynb")
    page.complaints.clear()  # of requests that the page before left unanswered
    for _ in range(2):  # a cell that is run again
        run_all(page)
        outputs = page.locator(".jp-NotebookPanel:visible .jp-OutputArea")
        figure = outputs.locator(".lm-explorer").first
        figure.scroll_into_view_if_needed()
        outputs.locator(".lm-explorer[data-answers]").wait_for(timeout=60_000)
        assert figure.locator(".lmx-chips b").all_inner_texts() == ["<s>", *"abcab"]
    figure.locator("textarea").fill("dcba")
    expect(figure.locator(".lmx-chips button")).to_have_count(5)
    picture = outputs.locator(".lm-picture")
    picture.scroll_into_view_if_needed()
    expect(picture.locator(".lmp-mask td").first).to_be_visible()
    assert figure.locator("img").is_hidden() and picture.locator("img").is_hidden()
    ink = "getComputedStyle(document.querySelector('.jp-OutputArea .lm-explorer')).color"
    theme = {name: f'{{theme: "JupyterLab {name}"}}' for name in ("Light", "Dark")}
    execute(page, "apputils:change-theme", theme["Light"])
    page.wait_for_function(f"{ink} === 'rgb(29, 33, 41)'")
    execute(page, "apputils:change-theme", theme["Dark"])
    page.wait_for_function(f"{ink} === 'rgb(229, 231, 235)'")
    assert complaints(page) == []
