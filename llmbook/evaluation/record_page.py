"""The record of ``llmbook evaluate`` as a page that stands alone, and as lines for a terminal (chapter 17)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--back:#fff;--card:#f6f8fa;--bar:#0b6bcb;
--range:#b35900}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b1;--line:#3d444d;--back:#0d1117;--card:#161b22;
--bar:#58a6ff;--range:#f0a35e}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin:0 0 .25rem}
section{border:1px solid var(--line);border-radius:6px;padding:.75rem 1rem;margin:.75rem 0;background:var(--card)}
p{margin:.35rem 0}.score{font-size:1.35rem;font-weight:600}.soft{color:var(--soft)}
svg{display:block;width:100%;height:28px;margin:.35rem 0}
dl{display:grid;grid-template-columns:minmax(6.5rem,11rem) 1fr;gap:.15rem 1rem;margin:.35rem 0}
dt{color:var(--soft)}dd{margin:0}summary{cursor:pointer}code{font-size:.9em}
"""


def _number(value: float) -> str:
    return f"{value:.3f}"


def _entries(pairs: Mapping[str, Any]) -> str:
    lines = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in pairs.items())
    return f"<dl>{lines}</dl>"


def _bar(line: Mapping[str, Any]) -> str:
    """Draw a score from 0 to 1 with its interval, and chance as a dashed line."""
    low, high, score, chance = (100 * line[name] for name in ("low", "high", "score", "chance"))
    label = f"{_number(line['score'])}, interval {_number(line['low'])} to {_number(line['high'])}"
    if line["chance"]:
        label += f", chance {_number(line['chance'])}"
    mark = f'<line x1="{chance:.2f}%" x2="{chance:.2f}%" y1="1" y2="27" stroke="var(--soft)" stroke-width="2" '
    mark += 'stroke-dasharray="4 3"/>'
    return (
        f'<svg role="img" aria-label="{escape(label)}"><rect x="0" y="8" width="100%" height="12" fill="var(--line)"/>'
        f'<rect x="0" y="8" width="{score:.2f}%" height="12" fill="var(--bar)"/>'
        f'<rect x="{low:.2f}%" y="12" width="{max(high - low, 0.2):.2f}%" height="4" fill="var(--range)"/>'
        f"{mark if line['chance'] else ''}</svg>"
    )


def _result(line: Mapping[str, Any]) -> str:
    title = f"<h2>{escape(line['name'])}</h2>"
    if not line["applies"]:
        return f"<section>{title}<p>Does not apply: {escape(line['why'])}.</p></section>"
    score = f'<p><span class="score">{_number(line["score"])}</span> {escape(line["metric"])}, '
    score += f"from {_number(line['low'])} to {_number(line['high'])}</p>"
    unit = "documents" if line["kind"] == "text" else "items"
    details: dict[str, Any] = {"version": line["version"], unit: line["items"], "interval": line["interval"]}
    if line["kind"] != "text":
        details["template"] = line["template"]
        details["examples in the prompt"] = line["shots"]
        details["prompts cut at the front"] = line["truncated"]
    if line.get("chance"):
        details["guessing gets"] = _number(line["chance"])
    if "score_by_character" in line:
        details["accuracy per character"] = _number(line["score_by_character"])
    for name in ("method", "convention"):
        if name in line:
            details[name] = line[name]
    sheet = ""
    if line.get("datasheet"):
        sheet = f"<details><summary>Datasheet</summary>{_entries(line['datasheet'])}</details>"
    bar = _bar(line) if line["kind"] != "text" else ""
    question = f'<p class="soft">{escape(line["description"])}</p>'
    return f"<section>{title}{question}{score}{bar}{_entries(details)}{sheet}</section>"


def page(record: Mapping[str, Any]) -> str:
    """Return a record as one HTML page that asks no other host for anything.

    Args:
        record: what ``command.evaluate`` returns.
    """
    model, key = record["model"], record["key"]
    name = escape(model["name"])
    about = {
        "model": f"{model['type']}, {model['kind']}, {model['parameters']:,} parameters",
        "context": f"{model['context']} tokens",
        "SHA-256": model["sha256"],
        "command": record["command"] or "(called from Python)",
        "date": record["date"],
        "took": f"{record['seconds']} s (what an earlier run had finished not counted)",
        "machine": record["machine"],
        "computed": f"{key['precision']}, {key['threads']} threads, batches of {key['batch_size']}",
        "versions": ", ".join(f"{library} {version}" for library, version in key["versions"].items()),
        "limit": record["settings"]["limit"] or "none: all items",
    }
    results = "".join(_result(line) for line in record["results"])
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation of {name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>Evaluation of {name}</h1>"
        "<p>Blue: the score. Orange: its interval of 95 %, which says how far the score may move with another draw of "
        "items of the same kind, and nothing about other prompts or other text. Dashed: guessing.</p>"
        f"{results}<section><h2>How this was made</h2>{_entries(about)}</section></main></body></html>\n"
    )


def table(record: Mapping[str, Any]) -> str:
    """Return a record's scores as lines for a terminal."""
    lines = [f"{'benchmark':<15} {'shots':>5} {'items':>5}  {'score':>6}  {'95 % interval':<15}  metric"]
    for line in record["results"]:
        if line["applies"]:
            interval = f"{_number(line['low'])} - {_number(line['high'])}"
            size = f"{line['shots']:>5} {line['items']:>5}"
            lines.append(f"{line['name']:<15} {size}  {_number(line['score']):>6}  {interval:<15}  {line['metric']}")
        else:
            lines.append(f"{line['name']:<15} does not apply: {line['why']}")
    return "\n".join(lines)
