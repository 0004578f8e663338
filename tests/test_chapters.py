"""The rules of a chapter: kept by every chapter of the book, and each seen to fail on a bad one."""

import copy
import dataclasses
import functools
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import chapters
import rules

CHAPTERS = chapters.find_chapters()
load = functools.cache(rules.load)  # a notebook is read once for all rules
SET_UP = "import llmbook"


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_chapter_keeps(chapter, rule):
    problems = rule(load(chapter))
    if problems:
        pytest.fail("\n".join(f"{chapter.name}: {problem}" for problem in problems), pytrace=False)


def test_there_are_chapters():
    assert CHAPTERS


def test_book_as_a_whole():
    assert rules.book_problems() == []


def test_every_chapter_and_part_stands_in_the_lists_that_are_written_by_hand():
    problems = rules.unlisted()
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


# --- each rule fails on a chapter made to break it ------------------------------------------------------------------


def image_output() -> nbformat.NotebookNode:
    return new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})


def good_notebook() -> nbformat.NotebookNode:
    figure = {"mystnb": {"image": {"alt": "bits per byte fall with the order"}}}
    cells = [
        new_markdown_cell("# A title\n\nSee [Shannon](https://doi.org/10.1002/x(1)) and [the next](02-next.ipynb#a)."),
        new_code_cell(SET_UP, metadata={"tags": ["setup"]}),
        new_markdown_cell("Maths $f[x](y)$ and ``{role}`x` ``.\n\n![A curve](figure.png)"),
        new_code_cell("# NBVAL_CHECK_OUTPUT\nplot()", metadata=figure, outputs=[image_output()]),
    ]
    for number in range(1, 5):
        cells.append(new_markdown_cell(f"### Exercise {number}: recall\n\nWhy?"))
        if number % 2:
            cells.append(new_markdown_cell("<details><summary>Solution</summary>\n\nSo.\n\n</details>"))
        else:
            cells.append(new_code_cell("1", metadata={"tags": ["hide-cell"]}))
    notebook = new_notebook(cells=cells)
    for count, cell in enumerate(chapters.code_cells(notebook), start=1):
        cell.execution_count = count
    return notebook


@pytest.fixture
def case(tmp_path):
    """A chapter that keeps every rule."""
    folder = tmp_path / "notebooks" / "en"
    folder.mkdir(parents=True)
    for name in ("01-one.ipynb", "02-next.ipynb", "figure.png"):
        (folder / name).touch()
    notebook = good_notebook()
    return rules.Case(
        chapter=chapters.Chapter("en/01-one", Path("book/en/01-one.md"), folder / "01-one.ipynb"),
        manuscript=copy.deepcopy(notebook),
        notebook=notebook,
        measurement={"code_sha256": chapters.code_sha256(notebook), "seconds": 100, "peak_memory_mib": 900},
        set_up=SET_UP,
        bibliography="@article{s, doi = {10.1002/X(1)}}",
    )


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_good_chapter_keeps(case, rule):
    assert rule(case) == []


def add(text: str):
    """Return a change that adds a Markdown cell before the exercises."""
    return lambda notebook: notebook.cells.insert(3, new_markdown_cell(text))


def change_cell(index: int, **values):
    def change(notebook):
        notebook.cells[index].update(values)

    return change


def drop(index: int):
    return lambda notebook: notebook.cells.pop(index)


def tag_twice(notebook):
    notebook.cells[3].metadata["tags"] = ["setup"]


BAD = [
    (rules.pair_in_step, change_cell(0, source="# Another title"), "cell 1 differs between manuscript and notebook"),
    (rules.pair_in_step, drop(-1), "the manuscript has 12 cells, the notebook 11"),
    (rules.executed_in_order, change_cell(3, execution_count=7), "executed as [1, 7, 3, 4], not 1 to 4"),
    (rules.executed_in_order, change_cell(3, execution_count=None), "executed as [1, None, 3, 4]"),
    (
        rules.no_error_output,
        change_cell(3, outputs=[new_output("error", ename="KeyError", evalue="", traceback=[])]),
        "code cell 2 shows KeyError",
    ),
    (rules.no_unrendered_mark_up, add("As {cite:p}`shannon1948` says."), "role {cite:p}`shannon1948`"),
    (rules.no_unrendered_mark_up, add("```{note}\nA note.\n```"), "directive ```{note}"),
    (rules.set_up_cell, drop(1), "the first code cell has no tag setup"),
    (rules.set_up_cell, change_cell(1, source="pass"), "the set-up cell is not the one of this chapter"),
    (rules.set_up_cell, tag_twice, "more than one cell"),
    (rules.recorded_code, change_cell(3, source="plot(2)"), "the code changed since it was executed"),
    (
        rules.reads_only_the_package,
        change_cell(3, source='x = 1\npath = Path("../../llmbook/results/a.json")'),
        'code cell 2 reaches out of its folder: path = Path("../../llmbook/results/a.json")',
    ),
    (rules.figures_described, change_cell(3, metadata={}), "code cell 2 draws a figure without alternative text"),
    (rules.figures_described, add("![](figure.png)"), "image figure.png has no alternative text"),
    (rules.figures_described, add('Text <img src="figure.png"> text'), '<img src="figure.png"> has no alternative'),
    (
        rules.figures_described,
        change_cell(3, outputs=[new_output("display_data", data={"text/html": "<div><svg width='3'></svg></div>"})]),
        "<svg width='3'> has no alternative text",
    ),
    (rules.described_figures_drawn, change_cell(3, outputs=[]), "code cell 2 describes a figure"),
    (
        rules.described_figures_drawn,
        change_cell(3, outputs=[new_output("execute_result", data={"text/html": "<table></table>"})]),
        "its stored outputs show none",
    ),
    (rules.cited_work_in_bibliography, add("[x](https://arxiv.org/abs/1706.03762)"), "1706.03762 is not in"),
    (rules.cited_work_in_bibliography, add("[x](https://doi.org/10.1/zz)"), "https://doi.org/10.1/zz is not in"),
    (rules.code_lines_fit, change_cell(3, source=f"plot({'1' * 108})"), "code cell 2 has a line of 114 characters"),
    (rules.linked_files_exist, add("[x](03-missing.ipynb#there)"), "03-missing.ipynb#there does not exist"),
    (rules.linked_files_exist, add("![x](missing.png)"), "missing.png does not exist"),
    (rules.linked_files_exist, add("![x](https://example.org/a.png)"), "comes from another host"),
    (rules.exercises_with_solutions, drop(-1), "exercise 4 has no solution"),
    (rules.exercises_with_solutions, change_cell(-2, source="### Exercise 9: recall"), "numbered [1, 2, 3, 9]"),
    (
        rules.exercises_with_solutions,
        change_cell(-2, source="### Another heading"),
        "3 exercises; a chapter has 4 to 8",
    ),
    (rules.outputs_compared, change_cell(3, source="plot()"), "no cell is marked"),
    (
        rules.definitions_say_where_kept,
        change_cell(3, source="# kept in llmbook.attention\ndef attend(query):\n    return query"),
        "attend is said to be kept as llmbook.attention.attend, which is no public name",
    ),
    (
        rules.definitions_say_where_kept,
        change_cell(
            3, source="from llmbook import tokenization\n\ndef viterbi(word): ...\n\ntokenization.viterbi('a')"
        ),
        "the chapter defines viterbi and takes llmbook.tokenization.viterbi: write `# kept in llmbook.tokenization`",
    ),
]


def test_definition_says_where_the_package_keeps_it(case):
    code = "from llmbook import tokenization\n\n{}def viterbi(word): ...\n\ntokenization.viterbi('a')"
    cell = case.notebook.cells[3]
    for line in ("# kept in llmbook.tokenization\n", "# kept in llmbook.tokenization.viterbi\n@cache\n"):
        cell.source = code.format(line)
        assert rules.definitions_say_where_kept(case) == []
    cell.source = code.format("")
    assert len(rules.definitions_say_where_kept(case)) == 1
    cell.metadata["tags"] = ["engine"]
    assert rules.definitions_say_where_kept(case) == [], "a record carries a hash of such a cell"


@pytest.mark.parametrize(
    ("rule", "spoil", "message"), BAD, ids=[f"{rule.__name__}-{text[:30]}" for rule, _, text in BAD]
)
def test_bad_chapter_breaks(case, rule, spoil, message):
    spoil(case.notebook)
    assert any(message in problem for problem in rule(case)), rule(case)


@pytest.mark.parametrize(
    ("measurement", "message"),
    [
        ({}, "no measurement"),
        ({"seconds": 151, "peak_memory_mib": 1}, "took 151 s"),
        (
            {"seconds": 301, "peak_memory_mib": 1, "products": "float32"},
            "took 301 s; with float32 products a chapter has 300 s",
        ),
        ({"seconds": 1, "peak_memory_mib": 2049}, "needed 2049 MiB"),
    ],
)
def test_budget_is_kept(case, measurement, message):
    assert message in rules.within_budget(dataclasses.replace(case, measurement=measurement))[0]


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("if record:\n    table = 1\n\n    plot(table)", True),
        ("if record:\n    table = 1\nplot(table)", False),
        ("plot(1)", False),
    ],
)
def test_figure_may_wait_for_its_record(case, source, kept):
    case.notebook.cells[3].update(source=source, outputs=[])
    assert (rules.described_figures_drawn(case) == []) == kept


def test_every_rule_is_seen_failing():
    assert {rule for rule, _, _ in BAD} | {rules.within_budget} == set(rules.RULES)


def test_strays_and_the_total_are_seen(tmp_path):
    folder = tmp_path / "notebooks" / "en"
    folder.mkdir(parents=True)
    (folder / "01-one.ipynb").touch()
    (folder.parent / "measurements.json").write_text('{"en/09-gone": {"seconds": 4000}}', encoding="utf-8")
    orphan, gone, total = rules.book_problems(tmp_path)
    assert "notebooks/en/01-one.ipynb has no manuscript" in orphan
    assert "en/09-gone, which is no chapter" in gone
    assert "all chapters take 2000 s with 2 workers; they have 1500 s" in total


def test_a_key_of_the_bibliography_is_given_once(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "references.bib").write_text("@article{s, year = {1}}\n@misc{S,\n}\n@misc{t,\n}\n")
    assert rules.book_problems(tmp_path) == ["book/references.bib has s 2 times: keep one"]


TOC = """\
root: book/en/index
parts:
  - caption: Using this book
    chapters: [{file: book/en/run}]
  - caption: I · Counting
    chapters: [{file: notebooks/en/01-one}]
"""


def test_a_chapter_or_part_that_a_list_forgets_is_named_with_the_file_and_the_line_to_add(tmp_path):
    pages = tmp_path / "book" / "en"
    pages.mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text(TOC, encoding="utf-8")
    (pages / "01-one.md").write_text("# Words\n", encoding="utf-8")
    link = "[Words](../../notebooks/en/01-one.ipynb)"
    (pages / "index.md").write_text(f"- **I. Counting** Words.\n  1. {link}\n", encoding="utf-8")
    (pages / "sources.md").write_text(link.replace(".ipynb", ".ipynb#words"), encoding="utf-8")
    (pages / "teaching.md").write_text(f"| 1 | {link} |", encoding="utf-8")
    (tmp_path / "README.md").write_text("So far:\n*Counting*.", encoding="utf-8")
    assert rules.unlisted(tmp_path) == []
    (tmp_path / "_toc.yml").write_text(TOC + "  - {caption: II · More, chapters: []}\n", encoding="utf-8")
    (pages / "02-two.md").write_text("# Sums\n", encoding="utf-8")
    link = "[Sums](../../notebooks/en/02-two.ipynb)"
    assert rules.unlisted(tmp_path) == [
        "_toc.yml lacks a chapter: add `- file: notebooks/en/02-two` to its part",
        f"book/en/index.md lacks a chapter: add `2. {link}`",
        f"book/en/sources.md lacks a chapter: add `| the sections of the sources | the topic | {link} |`",
        f"book/en/teaching.md lacks a chapter: add `| week | {link} | lab | to hand in |`",
        "README.md lacks a part: add a sentence on `*More*`",
        "book/en/index.md lacks a part: add `- **II. More** what it is about`",
    ]


def test_missing_notebook_is_named(tmp_path):
    chapter = chapters.Chapter("en/01-one", tmp_path / "01-one.md", tmp_path / "01-one.ipynb")
    with pytest.raises(chapters.Problem, match="en/01-one has no notebook: run `make notebooks CHAPTER=en/01-one`"):
        rules.load(chapter, tmp_path)
