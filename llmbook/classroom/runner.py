"""What runs inside the sandbox: it executes a student's cells on given inputs and sends plain values back.

It is given no expected value and judges nothing, so student code that takes this process over gains nothing by it.
Standard library and numpy only (and IPython for a cell in its syntax), and nothing of ``llmbook``: the file is copied
into the sandbox and run there alone.

Both directions speak in *frames*: two lengths, a JSON text, and the bytes of the arrays that the text refers to. The
file ``plan`` beside this one holds one frame, ``cases-0`` and so on, which appear as their turn comes, the inputs of
one question each; the answers go to the original standard output, one frame a question.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import inspect
import io
import json
import linecache
import math
import os
import random
import re
import signal
import struct
import sys
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import asyncio

LENGTHS = struct.Struct(">QQ")
DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
ROWS = {"|b1": bool, "<i8": int, "<f8": float}  # lists of one plain type travel as arrays
DEPTH = 20
HEAD = 4 * 2**20
NODES = 500_000  # values in the text of a frame: some 100 MB once they are read
ENTRIES = 1000  # of a mapping whose keys may be whole numbers of any length: those can be chosen to collide
ANSWER = 8 * 2**20
OUTPUT = 4000
MESSAGE = 300
ALLOWED = "return a numpy array, a tensor, a number, a text, None, or lists and dicts of those"


class TooLongError(BaseException):
    """The time for one question is over; not an ``Exception``, so that few handlers swallow it."""


def pack(value: Any, blob: bytearray, depth: int = 0) -> list[Any]:
    """Write plain data as a JSON tree; arrays go to ``blob`` and the tree says where they lie.

    A value of a subclass (``numpy.str_``, ``Counter``, a named tuple, an ``IntEnum``) is written as its plain type,
    a NumPy scalar as the Python number it stands for, and a list of numbers of one type as compactly as an array.
    ``TypeError`` for all that is not plain.
    """
    if depth > DEPTH:
        raise TypeError(f"the answer is nested more than {DEPTH} levels deep")
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    value = _scalar(value)
    if value is None:
        return ["none"]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    if isinstance(value, bool):
        return ["bool", value]
    if isinstance(value, int):
        value = int.__int__(value)
        # no text of decimal digits: beyond 4,300 of them Python refuses, and its time grows with their square
        return ["int", value] if -(2**63) <= value < 2**63 else ["whole", hex(value)]
    if isinstance(value, float):
        return ["float", float.__float__(value)]
    if isinstance(value, complex):
        value = np.asarray(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind in "UT":
            return pack(array.tolist(), blob, depth + 1)
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        return ["array", array.dtype.str, list(array.shape), _store(array, blob)]
    if isinstance(value, dict):
        return ["dict", [[pack(key, blob, depth + 1), pack(item, blob, depth + 1)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return _pack_items("tuple" if isinstance(value, tuple) else "list", value, blob, depth)
    raise TypeError(f"the answer is of type {_type_name(value)}: {ALLOWED}")


def _scalar(value: Any) -> Any:
    """Return the Python number or text that a NumPy scalar stands for, and anything else as it is."""
    plain = isinstance(value, np.generic) and (value.dtype.kind == "U" or value.dtype.str in DTYPES)
    return value.item() if plain else value


def _pack_items(kind: str, items: Sequence[Any], blob: bytearray, depth: int) -> list[Any]:
    """Write a list or tuple; one of floats, truth values, short whole numbers or texts in a shorter form."""
    items = list(map(_scalar, items))
    found = set(map(type, items))
    if found == {str}:
        return ["texts", kind, items]
    for dtype, plain in ROWS.items():
        if found == {plain} and (plain is not int or (min(items) >= -(2**63) and max(items) < 2**63)):
            return ["row", kind, dtype, len(items), _store(np.array(items, dtype), blob)]
    return [kind, [pack(item, blob, depth + 1) for item in items]]


def _store(array: np.ndarray, blob: bytearray) -> int:
    """Append an array's bytes and return where they begin; ``TypeError`` for types that are not on the list."""
    if array.dtype.str not in DTYPES:
        raise TypeError(f"an array of type {array.dtype}: {ALLOWED}")
    place = len(blob)
    blob += array.tobytes()
    return place


def unpack(tree: Any, blob: bytes, depth: int = 0) -> Any:
    """Read plain data; ``ValueError`` if anything in it is not as ``pack`` writes it, whoever wrote it."""
    if depth > DEPTH or type(tree) is not list or not tree or type(tree[0]) is not str:
        raise ValueError("no plain value")
    kind, rest = tree[0], tree[1:]
    if kind == "none" and not rest:
        return None
    if kind == "array" and len(rest) == 3:
        return _array(rest[0], rest[1], rest[2], blob)
    if kind == "row" and len(rest) == 4 and rest[1] in ROWS:
        return _listed(rest[0], _array(rest[1], [rest[2]], rest[3], blob).tolist())
    if kind == "texts" and len(rest) == 2 and type(rest[1]) is list and all(type(item) is str for item in rest[1]):
        return _listed(rest[0], rest[1])
    if len(rest) != 1:
        raise ValueError("no plain value")
    if kind == "whole" and type(rest[0]) is str and re.fullmatch("-?0x[0-9a-f]+", rest[0]):
        return int(rest[0], 16)
    scalar = {"bool": bool, "int": int, "float": float, "str": str}.get(kind)
    if scalar is not None and type(rest[0]) is scalar:
        return rest[0]
    if kind in ("list", "tuple") and type(rest[0]) is list:
        return _listed(kind, [unpack(item, blob, depth + 1) for item in rest[0]])
    if kind == "dict" and type(rest[0]) is list and all(type(pair) is list and len(pair) == 2 for pair in rest[0]):
        keys = [unpack(key, blob, depth + 1) for key, _ in rest[0]]
        if not all(_hashable(key, len(keys) > ENTRIES) for key in keys):
            raise ValueError("no plain value")
        return dict(zip(keys, (unpack(item, blob, depth + 1) for _, item in rest[0]), strict=True))
    raise ValueError("no plain value")


def _listed(kind: Any, items: list[Any]) -> list[Any] | tuple[Any, ...]:
    if kind not in ("list", "tuple"):
        raise ValueError("no plain value")
    return tuple(items) if kind == "tuple" else items


def _hashable(value: Any, many: bool) -> bool:
    """Whether a value can be a key; of many keys none is a number that can be chosen to have another's hash."""
    if isinstance(value, tuple):
        return all(_hashable(item, many) for item in value)
    if isinstance(value, int) and many:
        return abs(value) < sys.hash_info.modulus
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


_STEPS = np.zeros(256, np.int8)  # half steps: a bracket is a whole one, what only separates none
_STEPS[list(b"[{")], _STEPS[list(b"]}")], _STEPS[list(b",:")] = 2, -2, 1


def weigh(text: bytes) -> tuple[int, int]:
    """Return how many values a JSON text may hold, and how deep it is nested, without reading it as JSON.

    Brackets, commas and colons within strings do not count. A text that is no JSON has some weight as well.
    """
    plain = np.frombuffer(text.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    outside = np.cumsum(plain == ord('"'), dtype=np.uint8) % 2 == 0
    step = _STEPS[plain] * outside
    return int(np.count_nonzero(step)), int(np.cumsum(step // 2, dtype=np.int32).max(initial=0))


def frames(data: bytes, most: int | None = None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the complete frames; ``ValueError`` at anything that is none. A last one that was cut short is left out.

    A text that would need much memory is refused before it is read, and so are more than ``most`` frames.
    """
    place = count = 0
    while place + LENGTHS.size <= len(data):
        text, blob = LENGTHS.unpack_from(data, place)
        start, middle, place = place + LENGTHS.size, place + LENGTHS.size + text, place + LENGTHS.size + text + blob
        if place > len(data):
            return
        count += 1
        if text > HEAD or (most is not None and count > most):
            raise ValueError("a frame whose text is too long, or too many frames")
        nodes, depth = weigh(data[start:middle])
        if nodes > NODES or depth > 4 * DEPTH:
            raise ValueError("a frame whose text holds too many values")
        try:
            head = json.loads(data[start:middle])
        except (RecursionError, ValueError) as error:
            raise ValueError("no frame") from error
        if type(head) is not dict:
            raise ValueError("no frame")
        yield head, data[middle:place]


class _Kept(io.BytesIO):
    """Keeps the beginning of what is printed."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def fileno(self) -> int:
        return 2  # where other programs' output goes

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.data += bytes(memoryview(data).cast("B")[: max(0, 4 * OUTPUT - len(self.data))])
        return size


def _python(code: str, name: str) -> types.CodeType:
    """Compile a cell as IPython does: its own syntax (%magic, !command, name?) and ``await`` outside of functions."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        return compile(code, name, "exec", flags)
    except SyntaxError:
        plain = _transformed(code)
        if plain.strip() == code.strip():
            raise
        return compile(plain, name, "exec", flags)


def _transformed(code: str) -> str:
    """Turn IPython's syntax into Python's; where IPython is missing, leave such lines out."""
    try:
        from IPython.core.inputtransformer2 import TransformerManager
    except ImportError:
        return re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)
    try:
        return str(TransformerManager().transform_cell(code))
    except SyntaxError:
        return code


def _display(*objects: Any, **options: Any) -> Any:
    """Print what a notebook would show: the text of each object."""
    if options:
        from IPython.display import display

        return display(*objects, **options)
    print(*map(repr, objects), sep="\n")
    return None


@functools.cache
def _shell(module: types.ModuleType) -> Any:
    """Return the IPython in which a cell's magics and commands run; it is made for a cell that asks for it."""
    import subprocess

    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def system(self, cmd: str) -> None:
            command = self.var_expand(cmd, depth=1)
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
            done = subprocess.run(command, shell=True, stderr=subprocess.STDOUT, **pipes)
            print(done.stdout.decode(errors="replace"), end="")
            self.user_ns["_exit_code"] = done.returncode

        def enable_gui(self, gui: str | None = None) -> None:
            """Nobody looks."""

        def enable_matplotlib(self, gui: str | None = None) -> tuple[str | None, str]:
            return gui, "agg"

    settings = Config()
    settings.HistoryManager.enabled = False
    settings.InteractiveShell.colors = "NoColor"
    shell = Shell.instance(user_module=module, user_ns=module.__dict__, config=settings)
    shell.set_hook("show_in_pager", lambda *_, **__: None, 0)
    return shell


def _describe(error: BaseException, name: str) -> dict[str, Any]:
    """Say what was raised, and in which line of the student's cell."""
    line, trace = None, BaseException.__dict__["__traceback__"].__get__(error)
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        if isinstance(error, SyntaxError) and error.filename == name:
            line = error.lineno
        message = "".join([str(error)])[:MESSAGE]
    except BaseException:
        message = ""
    return {"type": _type_name(error)[:80], "message": message, "line": line if type(line) is int else None}


def _type_name(value: Any) -> str:
    """Return the name of a value's type, whatever its class says."""
    return str(type.__dict__["__name__"].__get__(type(value)))


def _waited() -> float:
    """Return for how many seconds this process was ready and another one had the processor, since it began."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


class _Clock:
    """Raises ``TooLongError`` when the time for one question is over; waiting for the processor is no part of it."""

    def __init__(self) -> None:
        self.seconds = self.started = self.waited = 0.0
        self.works = hasattr(signal, "setitimer")
        if self.works:
            signal.signal(signal.SIGALRM, self._ring)

    def start(self, seconds: float) -> None:
        self.seconds, self.started, self.waited = seconds, time.monotonic(), _waited()
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)

    def stop(self) -> None:
        if self.works:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, *_: object) -> None:
        used = time.monotonic() - self.started - (_waited() - self.waited)
        if used >= self.seconds:
            raise TooLongError
        signal.setitimer(signal.ITIMER_REAL, max(self.seconds - used, 0.05), 1.0)


class _Run:
    """One notebook: set-up and answers executed in one namespace, as a kernel does, then the calls."""

    def __init__(self, seconds: float, seed: int, clock: _Clock) -> None:
        self.seconds, self.seed, self.clock = seconds, seed, clock
        self.module = types.ModuleType("__main__")
        self.loop: asyncio.AbstractEventLoop | None = None
        sys.modules["__main__"] = self.module
        vars(builtins).update(display=_display, get_ipython=functools.partial(_shell, self.module))

    @contextlib.contextmanager
    def guarded(self, name: str, report: dict[str, Any]) -> Iterator[None]:
        """Run the body with a time limit, fixed seeds and caught output; what it raises is written to ``report``."""
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(self.seed)
        kept = _Kept()
        output = io.TextIOWrapper(kept, "utf-8", "backslashreplace", "\n", write_through=True)
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                self.clock.start(self.seconds)
                try:
                    yield
                finally:
                    self.clock.stop()
        except TooLongError:
            message = f"it took more than {self.seconds:g} s and was stopped"
            report["error"] = {"type": "TooLong", "message": message, "line": None, "late": True}
        except BaseException as error:
            report["error"] = _describe(error, name)
        report["output"] = kept.data.decode(errors="replace")[:OUTPUT]

    def cell(self, code: str, name: str) -> dict[str, Any]:
        """Execute a cell; return its output and its error."""
        report: dict[str, Any] = {"error": None, "output": ""}
        with self.guarded(name, report):
            if "IPython" in code and "get_ipython" in code:
                _shell(self.module)  # for ``from IPython import get_ipython``
            compiled = _python(code, name)
            linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for inspect.getsource
            if compiled.co_flags & inspect.CO_COROUTINE:
                import asyncio  # for the few cells that wait: it takes as long as the rest

                self.loop = self.loop or asyncio.new_event_loop()
                self.loop.run_until_complete(eval(compiled, self.module.__dict__))
            else:
                exec(compiled, self.module.__dict__)
        return report

    def answer(
        self, question: dict[str, Any], cases: list[Any], source: bytes, blob: bytearray, most: int = ANSWER
    ) -> list[Any]:
        """Return for each case ``[value, None]`` or ``[None, error]``.

        A question for a value has one case, without arguments. The arrays of the cases lie in ``source``, those
        of the values go to ``blob``. Values that take more than ``most`` bytes together are errors.
        """
        results: list[Any] = []
        name = f"<{question['id']}>"
        room, nodes = HEAD - 2**17, 0
        for case in cases:
            if results and (results[-1][1] or {}).get("late"):
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
                text = json.dumps(tree).encode()
                weight = weigh(text)[0]
                if len(text) > room or nodes + weight > NODES * 9 // 10 or len(blob) > most:
                    size = (len(text) + len(blob) - place) / 2**20
                    more = "lists of lists and mappings take more room than an array"
                    raise TypeError(f"the answers are too large to be graded, this one takes {size:.1f} MiB; {more}")
                room, nodes = room - len(text), nodes + weight
            if report["error"] is not None:
                tree, blob[place:] = None, b""
            results.append([tree, report["error"]])
        return results


def _cases(number: int) -> tuple[list[Any], bytes]:
    """Wait for the inputs of a question, which the grader writes when its turn has come."""
    path = Path(__file__).parent / f"cases-{number}"
    while not path.exists():
        time.sleep(0.001)
    head, blob = next(frames(path.read_bytes()))
    return head["cases"], blob


def execute(plan: dict[str, Any], blob: bytes) -> Iterator[bytes]:
    """Run the notebooks of a plan; yield a frame before and after each question and one at the end."""
    clock = _Clock()
    for position, notebook in enumerate(plan["notebooks"]):
        run = _Run(plan["question_seconds"], plan["seed"], clock)
        setup = run.cell(notebook["setup"], "<set-up>")
        if setup["error"] is not None:
            yield frame({"notebook": position, "setup": setup})
            continue
        reports = {}
        for question in notebook["questions"]:
            yield frame({"begins": question["id"]})
            reports[question["id"]] = run.cell(question["code"], f"<{question['id']}>")
        for number, question in enumerate([one for one in notebook["questions"] if one.get("counts", True)]):
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
            elif "cases" in question:
                cases, source = question["cases"], blob
            else:
                cases, source = _cases(number)
            if report["error"] is None:
                room = {"most": plan["answer_bytes"]} if "answer_bytes" in plan else {}
                head["results"] = run.answer(question, cases, source, answers, **room)
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
    with contextlib.suppress(OSError):  # where memory runs out, this goes before anything of the grader's
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Run the plan beside this file; everything printed goes to standard error, the frames to standard output."""
    channel = os.dup(1)
    os.dup2(2, 1)
    plan, blob = next(frames((Path(__file__).parent / "plan").read_bytes()))
    _limit(plan)
    sys.path.extend(plan["path"])
    for data in execute(plan, blob):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(channel, rest) :]
    os._exit(0)


if __name__ == "__main__":
    main()
