"""What runs inside the sandbox: it executes a student's cells on given inputs and sends plain values back.

It is given no expected value and judges nothing, so student code that takes this process over gains nothing by it.
Standard library and numpy only, and nothing of ``llmbook``: the file is copied into the sandbox and run there alone.

Both directions speak in *frames*: two lengths, a JSON text, and the bytes of the arrays that the text refers to. The
file ``plan`` beside this one holds one frame; the answers go to the original standard output, one frame a question.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import re
import signal
import struct
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = struct.Struct(">QQ")
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
DEPTH = 20
HEAD = 4 * 2**20
OUTPUT = 4000
MESSAGE = 300
ALLOWED = "return a numpy array, a tensor, a number, a text, None, or lists and dicts of those"


class TooLongError(BaseException):
    """The time for one question is over; not an ``Exception``, so that few handlers swallow it."""


def pack(value: Any, blob: bytearray, depth: int = 0) -> list[Any]:
    """Write plain data as a JSON tree; arrays go to ``blob`` and the tree says where they lie."""
    if depth > DEPTH:
        raise TypeError(f"the answer is nested more than {DEPTH} levels deep")
    if value is None or isinstance(value, bool | str):
        return [type(value).__name__, value] if value is not None else ["none"]
    if isinstance(value, int):
        return ["int", int(value)]
    if isinstance(value, float):
        return ["float", float(value)]
    if isinstance(value, complex):
        value = np.asarray(value)
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if isinstance(value, np.generic) and value.dtype.kind in "US":
        return ["str", str(value)]
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind == "U":
            return pack(array.tolist(), blob, depth + 1)
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        if array.dtype.str not in DTYPES:
            raise TypeError(f"an array of type {array.dtype}: {ALLOWED}")
        place = len(blob)
        blob += array.tobytes()
        return ["array", array.dtype.str, list(array.shape), place]
    if isinstance(value, dict):
        return ["dict", [[pack(key, blob, depth + 1), pack(item, blob, depth + 1)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", [pack(item, blob, depth + 1) for item in value]]
    raise TypeError(f"the answer is of type {type(value).__name__}: {ALLOWED}")


def unpack(tree: Any, blob: bytes, depth: int = 0) -> Any:
    """Read plain data; ``ValueError`` if anything in it is not as ``pack`` writes it, whoever wrote it."""
    if depth > DEPTH or type(tree) is not list or not tree or type(tree[0]) is not str:
        raise ValueError("no plain value")
    kind, rest = tree[0], tree[1:]
    if kind == "none" and not rest:
        return None
    if kind == "array" and len(rest) == 3:
        return _array(rest[0], rest[1], rest[2], blob)
    if len(rest) != 1:
        raise ValueError("no plain value")
    scalar = {"bool": bool, "int": int, "float": float, "str": str}.get(kind)
    if scalar is not None and type(rest[0]) is scalar:
        return rest[0]
    if kind in ("list", "tuple") and type(rest[0]) is list:
        items = [unpack(item, blob, depth + 1) for item in rest[0]]
        return tuple(items) if kind == "tuple" else items
    if kind == "dict" and type(rest[0]) is list and all(type(pair) is list and len(pair) == 2 for pair in rest[0]):
        keys = [unpack(key, blob, depth + 1) for key, _ in rest[0]]
        if not all(map(_hashable, keys)):
            raise ValueError("no plain value")
        return dict(zip(keys, (unpack(item, blob, depth + 1) for _, item in rest[0]), strict=True))
    raise ValueError("no plain value")


def _hashable(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_hashable(item) for item in value)
    return value is None or isinstance(value, str | int | float)


def _array(dtype: Any, shape: Any, place: Any, blob: bytes) -> np.ndarray:
    """Read an array whose type is on the list and whose bytes are all there."""
    if dtype not in DTYPES or type(shape) is not list or len(shape) > 16 or type(place) is not int:
        raise ValueError("no plain array")
    if not all(type(length) is int and 0 <= length < 2**40 for length in shape):
        raise ValueError("no plain array")
    count = math.prod(shape)
    if place < 0 or place + count * np.dtype(dtype).itemsize > len(blob):
        raise ValueError("an array longer than its data")
    return np.frombuffer(blob, dtype, count, place if count else 0).reshape(shape).copy()


def frame(head: dict[str, Any], blob: bytes | bytearray = b"") -> bytes:
    """Return a frame."""
    text = json.dumps(head).encode()
    return LENGTHS.pack(len(text), len(blob)) + text + blob


def frames(data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the complete frames; ``ValueError`` at anything that is none. A last one that was cut short is left out."""
    place = 0
    while place + LENGTHS.size <= len(data):
        text, blob = LENGTHS.unpack_from(data, place)
        start, middle, place = place + LENGTHS.size, place + LENGTHS.size + text, place + LENGTHS.size + text + blob
        if place > len(data):
            return
        if text > HEAD:
            raise ValueError("a frame whose text is too long")
        try:
            head = json.loads(data[start:middle])
        except (RecursionError, ValueError) as error:
            raise ValueError("no frame") from error
        if type(head) is not dict:
            raise ValueError("no frame")
        yield head, data[middle:place]


class _Output(io.TextIOBase):
    """Keeps the beginning of what is printed."""

    def __init__(self) -> None:
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += str(text)[: OUTPUT - len(self.text)]
        return len(text)


def _python(code: str, name: str) -> types.CodeType:
    """Compile a cell; lines for IPython (%matplotlib, !pip) are left out where it does not compile with them."""
    try:
        return compile(code, name, "exec")
    except SyntaxError:
        plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)
        if plain == code:
            raise
        return compile(plain, name, "exec")


def _describe(error: BaseException, name: str) -> dict[str, Any]:
    """Say what was raised, and in which line of the student's cell."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == name:
        line = error.lineno
    try:
        message = str(error)[:MESSAGE]
    except BaseException:
        message = ""
    return {"type": type(error).__name__[:80], "message": message, "line": line if type(line) is int else None}


class _Run:
    """One notebook: set-up and answers executed in one namespace, as a kernel does, then the calls."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds, self.seed = seconds, seed
        self.module = types.ModuleType("__main__")
        sys.modules["__main__"] = self.module

    @contextlib.contextmanager
    def guarded(self, name: str, report: dict[str, Any]) -> Iterator[None]:
        """Run the body with a time limit, fixed seeds and caught output; what it raises is written to ``report``."""
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(self.seed)
        output = _Output()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                if hasattr(signal, "setitimer"):
                    signal.setitimer(signal.ITIMER_REAL, self.seconds, 1.0)
                try:
                    yield
                finally:
                    if hasattr(signal, "setitimer"):
                        signal.setitimer(signal.ITIMER_REAL, 0)
        except TooLongError:
            message = f"it took more than {self.seconds:g} s and was stopped"
            report["error"] = {"type": "TooLong", "message": message, "line": None}
        except BaseException as error:
            report["error"] = _describe(error, name)
        report["output"] = output.text

    def cell(self, code: str, name: str) -> dict[str, Any]:
        """Execute a cell; return its output and its error."""
        report: dict[str, Any] = {"error": None, "output": ""}
        with self.guarded(name, report):
            exec(_python(code, name), self.module.__dict__)
        return report

    def answer(self, question: dict[str, Any], cases: list[Any], source: bytes, blob: bytearray) -> list[Any]:
        """Return for each case ``[value, None]`` or ``[None, error]``.

        A question for a value has one case, without arguments. The arrays of the cases lie in ``source``, those
        of the values go to ``blob``.
        """
        results: list[Any] = []
        name = f"<{question['id']}>"
        for case in cases:
            if results and (results[-1][1] or {}).get("type") == "TooLong":
                results.append(results[-1])  # the others would take as long
                continue
            report: dict[str, Any] = {"error": None}
            tree, place = None, len(blob)
            with self.guarded(name, report):
                value = getattr(self.module, question["name"], None)
                if not hasattr(self.module, question["name"]):
                    raise NameError(f"the answer defines no {question['name']!r}")
                if question["kind"] == "function":
                    if not callable(value):
                        raise TypeError(f"{question['name']!r} is no function")
                    value = value(*unpack(case, source))
                tree = pack(value, blob)
            if report["error"] is not None:
                tree, blob[place:] = None, b""
            results.append([tree, report["error"]])
        return results


def execute(plan: dict[str, Any], blob: bytes) -> Iterator[bytes]:
    """Run the notebooks of a plan; yield a frame before and after each question and one at the end."""
    for position, notebook in enumerate(plan["notebooks"]):
        run = _Run(plan["question_seconds"], plan["seed"])
        setup = run.cell(notebook["setup"], "<set-up>")
        if setup["error"] is not None:
            yield frame({"notebook": position, "setup": setup})
            continue
        reports = {}
        for question in notebook["questions"]:
            yield frame({"begins": question["id"]})
            reports[question["id"]] = run.cell(question["code"], f"<{question['id']}>")
        for question in notebook["questions"]:
            yield frame({"begins": question["id"]})
            report, answers, started = reports[question["id"]], bytearray(), time.monotonic()
            head: dict[str, Any] = {"notebook": position, "question": question["id"], **report}
            if "cases_code" in question:  # the reference solution: the cases are made here, and returned
                made, scope = [()], dict(run.module.__dict__)
                if question["kind"] == "function":
                    exec(_python(question["cases_code"], "<cases>"), scope)
                    made = list(scope["cases"](plan["case_seed"]))
                head["cases"] = [pack(tuple(case), answers) for case in made]
                cases, source = head["cases"], bytes(answers)
            else:
                cases, source = question["cases"], blob
            if report["error"] is None:
                head["results"] = run.answer(question, cases, source, answers)
            head["seconds"] = time.monotonic() - started
            yield frame(head, answers)
    yield frame({"end": True})


def _limit(plan: dict[str, Any]) -> None:
    """Set the limits of one process, for good: the hard ones too."""
    try:
        import resource
    except ImportError:  # Windows, and there only without a sandbox
        return
    for name, value in plan["rlimits"].items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def _too_long(*_: object) -> None:
    raise TooLongError


def main() -> None:
    """Run the plan beside this file; everything printed goes to standard error, the frames to standard output."""
    channel = os.dup(1)
    os.dup2(2, 1)
    plan, blob = next(frames((Path(__file__).parent / "plan").read_bytes()))
    _limit(plan)
    sys.path.extend(plan["path"])
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _too_long)
    for data in execute(plan, blob):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(channel, rest) :]
    os._exit(0)


if __name__ == "__main__":
    main()
