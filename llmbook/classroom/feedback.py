"""The page that a student gets: points and reasons, no hidden test, and nothing that a browser would run."""

from __future__ import annotations

import html
import unicodedata

from llmbook.classroom.grading import Mark, StudentRecord
from llmbook.classroom.source import Assignment

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{title}: feedback</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff; }}
section {{ border-top: 1px solid #8a8a8a; padding: .25rem 0 1rem; }}
h2 {{ font-size: 1.1rem; margin-bottom: .25rem; }}
p {{ margin: .25rem 0; overflow-wrap: anywhere; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f2f2f2; padding: .5rem; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #eee; background: #161616; }} pre {{ background: #2a2a2a; }} }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{who}</p>
<p><strong>{result}</strong></p>
{body}
</main>
</body>
</html>
"""


def feedback_page(record: StudentRecord, assignment: Assignment) -> str:
    """Return the feedback on one submission as a page that needs no other file."""
    if record.status == "graded":
        result = f"{record.earned} of {assignment.points} points"
        notes = [f"<p>{_escaped(record.reason)}</p>"] if record.reason else []
        sections = {question.id: question.section for question in assignment.questions}
        body = "\n".join([*notes, *(_section(mark, sections.get(mark.id, "")) for mark in record.marks)])
    else:
        result = f"Not graded: {plain(record.reason)}."
        body = "<p>This is not a mark. Correct what is said above and hand in again, or ask your instructor.</p>"
    who = record.name if record.name == record.student else f"{record.name} ({record.student})"
    return _PAGE.format(title=_escaped(assignment.title), who=_escaped(who), result=html.escape(result), body=body)


def _section(mark: Mark, reading: str) -> str:
    """Return what the page says of one question; ``reading`` is the chapter's section that an answer rests on."""
    heading = f"Question {mark.id.removeprefix('q')}: {mark.title}"
    lines = ["<section>", f"<h2>{_escaped(heading)}</h2>", f"<p>{mark.earned} of {mark.points} points</p>"]
    if mark.reason:
        lines.append(f"<p>{_escaped(mark.reason)}</p>")
        if reading and mark.earned < mark.points:
            lines.append(f"<p>To read again: the chapter's section <em>{_escaped(reading)}</em>.</p>")
    elif mark.earned == mark.points:
        lines.append("<p>Right in all cases, those that the notebook does not show among them.</p>")
    if mark.output.strip():
        lines.append(f"<p>Your cell printed:</p>\n<pre>{_escaped(mark.output)}</pre>")
    return "\n".join([*lines, "</section>"])


def _escaped(text: str) -> str:
    return html.escape(plain(text))


def plain(text: str) -> str:
    """Return a text without control characters and marks that change the direction of writing."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
