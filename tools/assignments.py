"""Write what the assignments' sources become into `_build/assignments`: `make assignments`.

`student/` is for students; `nbgrader/` (a course folder) and `gradescope/` hold solutions and hidden cases.
"""

import shutil
import sys

from chapters import ROOT, Problem, report
from classroom import environment
from llmbook.classroom import build, source

SOURCES = ROOT / "assignments"
FOLDER = ROOT / "_build" / "assignments"


def table(assignments: list[source.Assignment]) -> str:
    """Return what each question of each assignment teaches, in Markdown, as it stands in `book/en/teaching.md`."""
    parts = []
    for assignment in assignments:
        title = assignment.title.removeprefix("Assignment ")
        parts.append(f"**{title}.** About {assignment.minutes} minutes, {assignment.points} points.\n")
        parts += ["| question | kind | points | what it teaches |", "|---|---|---|---|"]
        for number, question in enumerate(assignment.questions, start=1):
            about = f"{number}. {question.title}"
            parts.append(f"| {about} | {question.level} | {question.points} | {question.teaches.rstrip('.')} |")
        parts.append("")
    return "\n".join(parts)


def main() -> int:
    """Write everything anew, except for an nbgrader_config.py that is there; print what was written."""
    try:
        assignments = [source.read(path) for path in source.find_all(SOURCES)]
        if not assignments:
            raise Problem(f"no assignment in {SOURCES}: a source is called NN-name.md")
        if sys.argv[1:] == ["--table"]:
            print(table(assignments))
            return 0
        variables = environment()
        for part in ("student", "gradescope"):
            shutil.rmtree(FOLDER / part, ignore_errors=True)
        for assignment in assignments:
            print(build.write_student(assignment, FOLDER / "student").relative_to(ROOT))
            print(build.write_nbgrader(assignment, FOLDER / "nbgrader").relative_to(ROOT))
            print(build.write_gradescope(assignment, FOLDER / "gradescope", variables).relative_to(ROOT))
    except (Problem, ValueError, OSError) as error:
        return report([str(error)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
