import json

import pytest

import rehearse
from chapters import Chapter, Problem, read_rehearsals

MANUSCRIPT = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

```{code-cell} ipython3
import torch
from llmbook import runtime
rt = runtime.setup()
layer = torch.nn.Linear(3, 2).to(rt.device)
print(rt)
```

```{code-cell} ipython3
layer(torch.ones(1, 3))
```

```{code-cell} ipython3
:tags: [raises-exception]

1 / 0
```

```{code-cell} ipython3
loss = layer(torch.ones(1, 3, device=rt.device)).sum()
left = torch.ones(1, 3) @ torch.ones(3, 1)
```
"""


@pytest.mark.slow
def test_a_chapter_runs_on_the_device_and_what_a_gpu_refuses_is_named(tmp_path):
    path = tmp_path / "01-a.md"
    path.write_text(MANUSCRIPT, encoding="utf-8")
    chapter = Chapter("en/01-a", path, path.with_suffix(".ipynb"))
    state = rehearse.run_apart(chapter, limit=300)
    entry = rehearse.judged(state, 4)
    assert entry["cells"] == [4, 4] and entry["networks"] == [1, 1]
    (problem,) = entry["problems"]
    assert problem.startswith("cell 2: RuntimeError: Expected all tensors to be on the same device")
    assert entry["operations"] == 2 * 3 * 2 + 2 * 3 and entry["share"] == round(12 / 18, 4)
    assert rehearse.left_behind(state)[0].startswith("  cell 4: 6 operations elsewhere (`loss = layer")


@pytest.mark.slow
def test_a_chapter_that_takes_too_long_is_stopped_and_says_how_far_it_came(tmp_path):
    path = tmp_path / "01-a.md"
    path.write_text(MANUSCRIPT.replace("print(rt)", "import time; time.sleep(600)"), encoding="utf-8")
    state = rehearse.run_apart(Chapter("en/01-a", path, path.with_suffix(".ipynb")), limit=3)
    entry = rehearse.judged(state, 4)
    assert entry["problems"] == ["stopped after 3 s, after cell 0 of 4"] and entry["share"] is None


def test_outcomes_are_kept_while_their_chapters_are_there(tmp_path):
    (tmp_path / "book" / "en").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    for name in ("01-a", "02-b"):
        (tmp_path / "book" / "en" / f"{name}.md").write_text("", encoding="utf-8")
    rehearse.keep({"en/01-a": {"share": 1.0}}, tmp_path)
    rehearse.keep({"en/02-b": {"share": 0.5}}, tmp_path)
    assert read_rehearsals(tmp_path) == {"en/01-a": {"share": 1.0}, "en/02-b": {"share": 0.5}}
    (tmp_path / "book" / "en" / "01-a.md").unlink()
    rehearse.keep({"en/02-b": {"share": 0.6}}, tmp_path)
    assert json.loads((tmp_path / "notebooks" / "rehearsed.json").read_text()) == {"en/02-b": {"share": 0.6}}


def test_an_unknown_chapter_is_a_problem():
    with pytest.raises(Problem, match="no chapter is called 'nothing'"):
        rehearse.run("nothing", limit=1)
