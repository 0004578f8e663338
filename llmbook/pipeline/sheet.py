"""A data sheet: what whoever uses a corpus must know, written from what was counted (Gebru et al. 2021; chapter 7)."""

from collections.abc import Mapping

SECTIONS = ("Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution", "Maintenance")


def data_sheet(title: str, answers: Mapping[str, Mapping[str, object]]) -> str:
    """Return a data sheet in Markdown.

    Args:
        title: name of the corpus.
        answers: for each of the seven sections of Gebru et al. its questions and their answers; an answer that is a
            mapping becomes a table.

    Raises:
        ValueError: a section is missing, has no answer, or is not one of the seven.
    """
    missing = [section for section in SECTIONS if not answers.get(section)]
    unknown = sorted(set(answers) - set(SECTIONS))
    if missing or unknown:
        raise ValueError(f"a data sheet has the sections {', '.join(SECTIONS)}: missing {missing}, unknown {unknown}")
    lines = [f"# Data sheet: {title}"]
    for section in SECTIONS:
        lines += ["", f"## {section}"]
        for question, answer in answers[section].items():
            if isinstance(answer, Mapping):
                rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in answer.items()]
                lines += ["", f"**{question}**", "", "| | |", "|---|---:|", *rows]
            else:
                lines += ["", f"**{question}** {answer}"]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
    return shown.replace("|", "\\|")
