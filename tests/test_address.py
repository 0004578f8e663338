"""The repository's address stands in one place, and one command changes it everywhere."""

import json

import nbformat
import pytest

import address
import chapters
from chapters import ROOT

OLD, NEW = "your_organisation/llmbook", "some-org/a.book"
README = """[site](https://your_organisation.github.io/llmbook/), [code](https://github.com/your_organisation/llmbook).
[Colab](https://colab.research.google.com/github/your_organisation/llmbook/blob/main/notebooks/en/01-one.ipynb)
[Binder](https://mybinder.org/v2/gh/your_organisation/llmbook/main?urlpath=lab)
git clone https://github.com/your_organisation/llmbook.git; see https://github.com/pytorch/pytorch.
"""


@pytest.fixture
def tree(tmp_path):
    """A small book that names its address in every form."""
    (tmp_path / "_config.yml").write_text(
        f"# settings\nrepository:\n  url: https://github.com/{OLD}\n  branch: main\n", encoding="utf-8"
    )
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text(f"repository-code: https://github.com/{OLD}\n", encoding="utf-8")
    for folder in ("book/en", "notebooks/en"):
        (tmp_path / folder).mkdir(parents=True)
    setup = f'%pip install -q "llmbook @ git+https://github.com/{OLD}"'
    (tmp_path / "book/en/01-one.md").write_text(f"# One\n\n```{{code-cell}}\n:tags: [setup]\n\n{setup}\n```\n")
    cell = nbformat.v4.new_code_cell(setup, metadata={"tags": ["setup"]}, execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks/en/01-one.ipynb")
    return tmp_path


@pytest.mark.slow
def test_book_has_no_stray_address():
    assert address.strays() == []


def test_change_reaches_every_form(tree):
    assert address.strays(tree) == []
    before = chapters.code_sha256(nbformat.read(tree / "notebooks/en/01-one.ipynb", as_version=4))
    changed = [str(path.relative_to(tree)) for path in address.change(tree, f"https://github.com/{NEW}")]
    expected = ["README.md", "CITATION.cff", "book/en/01-one.md", "notebooks/en/01-one.ipynb", "_config.yml"]
    assert changed == expected
    assert address.strays(tree) == []
    assert chapters.repository_url(tree) == f"https://github.com/{NEW}"
    readme = README.replace("your_organisation.github.io/llmbook", "some-org.github.io/a.book").replace(OLD, NEW)
    assert (tree / "README.md").read_text(encoding="utf-8") == readme
    notebook = nbformat.read(tree / "notebooks/en/01-one.ipynb", as_version=4)
    assert f"git+https://github.com/{NEW}" in notebook.cells[0].source
    assert chapters.code_sha256(notebook) == before


def test_change_is_undone_by_another(tree):
    before = {path: path.read_text(encoding="utf-8") for path in address.files(tree)}
    address.change(tree, "https://github.com/one/llmbook")
    first = {path: path.read_text(encoding="utf-8") for path in address.files(tree)}
    address.change(tree, "https://github.com/two/other/")
    address.change(tree, "https://github.com/one/llmbook.git")
    assert {path: path.read_text(encoding="utf-8") for path in address.files(tree)} == first != before


def test_stopped_change_starts_again(tree):
    address.change(tree, "https://github.com/one/llmbook")
    config = tree / "_config.yml"
    config.write_text(config.read_text(encoding="utf-8").replace("one/", "your_organisation/"), encoding="utf-8")
    (tree / "README.md").write_text(README, encoding="utf-8")
    address.change(tree, "https://github.com/one/llmbook")
    assert address.strays(tree) == []


@pytest.mark.parametrize(
    "line",
    [
        "https://github.com/somebody/llmbook",
        "git+https://github.com/somebody/llmbook.git",
        "https://colab.research.google.com/github/somebody/else/blob/main/a.ipynb",
        "https://mybinder.org/v2/gh/somebody/else/main",
        "https://somebody.github.io/llmbook/",
        "https://github.com/your_organisation/other",
    ],
)
def test_stray_is_found(tree, line):
    with (tree / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(line + "\n")
    (problem,) = address.strays(tree)
    assert problem.startswith("README.md:5: ") and "is not your_organisation/llmbook" in problem


@pytest.mark.parametrize(
    "url",
    ["", "x", "http://github.com/a/b", "https://github.com/a", "https://github.com/a_b/c", "https://github.com/-a/c",
     "https://gitlab.com/a/b", "https://github.com/a/b/c", "https://github.com/a/b c"],
)  # fmt: skip
def test_bad_address_is_refused(tree, url):
    before = (tree / "README.md").read_text(encoding="utf-8")
    with pytest.raises(chapters.Problem, match=r"is no repository on GitHub: write make address URL="):
        address.change(tree, url)
    assert (tree / "README.md").read_text(encoding="utf-8") == before


def test_config_without_address_is_named(tmp_path):
    (tmp_path / "_config.yml").write_text(json.dumps({"title": "x"}), encoding="utf-8")
    with pytest.raises(chapters.Problem, match=r"_config\.yml gives no `repository: url:`"):
        address.strays(tmp_path)


def test_address_reaches_every_file_with_the_placeholder():
    examples = {ROOT / "tools/address.py", *(ROOT / "tests").glob("*.py")}
    holders = [path for path in address.texts(ROOT) if address.PLACEHOLDER_OWNER in path.read_text(encoding="utf-8")]
    assert set(holders) - examples <= set(address.files(ROOT))


def test_book_installs_the_package_from_its_address_only():
    assert address.installs_without_address() == []


@pytest.mark.parametrize(
    "text",
    [
        "`pip install {}`",
        "pip install '{}[classroom]'",
        '%pip install -q "{}>=0.1"',
        "python -m pip install torch {}.",
        "run `pip install\n{}[triton]` first",
        '"on Linux, pip install "\n    "{}"',
        "uv add {}",
    ],
)
def test_install_without_address_is_found(tree, text):
    with (tree / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(text.format("llmbook"))
    (problem,) = address.installs_without_address(tree)
    assert problem.startswith("README.md:5: ")
    assert problem.endswith(
        f'no index has it: write "llmbook @ git+https://github.com/{OLD}", or name the package that is needed'
    )


@pytest.mark.parametrize(
    "text",
    [
        'pip install "{}[triton] @ git+https://github.com/your_organisation/{}"',
        "pip install -e /srv/{}",
        "pip install {}-theme",
        "`pip install triton`, then {}",
        "pip install triton\n{} evaluate MODEL_DIR",
    ],
)
def test_other_installs_are_left_alone(tree, text):
    (tree / "other.md").write_text(text.replace("{}", "llmbook"), encoding="utf-8")
    assert address.installs_without_address(tree) == []


def test_placeholder_is_counted_until_the_address_is_set(tree):
    note = address.placeholder_note(tree)
    assert "your_organisation, in 9 places of 5 files" in note and "`make address URL=https://github.com/" in note
    address.change(tree, f"https://github.com/{NEW}")
    assert address.placeholder_note(tree) == ""
