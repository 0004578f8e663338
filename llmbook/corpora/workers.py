"""Two processes that compute in the background, for functions of this package."""

import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

from llmbook.corpora.cache import CorpusError

CHUNK = 16


def in_parallel(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Yield the results of a function for a list of arguments in their order, computed by at most two processes.

    The processes are interpreters of their own and do not run the caller's script again, so this works from a notebook,
    from a script without a main guard and after threads have been started, where those of ``multiprocessing`` do not
    all. They read from a pipe, and end when it is closed: also if this process is killed.

    Raises:
        CorpusError: if one of the processes ends before its work is done.
    """
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()

    def compute(chunk: Sequence[tuple[Any, ...]]) -> list[Any]:
        process = idle.get()
        assert process.stdin and process.stdout
        try:
            pickle.dump((function, chunk), process.stdin)
            process.stdin.flush()
            results = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError):
            message = "A process that builds the corpus has ended (perhaps for want of memory): call again."
            raise CorpusError(message) from None
        finally:
            idle.put(process)
        return results

    with ExitStack() as stack:
        number = min(2, os.cpu_count() or 1)
        for _ in range(number):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            stack.callback(_end, process)
            idle.put(process)
        threads = ThreadPoolExecutor(number)
        stack.callback(threads.shutdown, cancel_futures=True)
        chunks = [arguments[start : start + CHUNK] for start in range(0, len(arguments), CHUNK)]
        for results in threads.map(compute, chunks):
            yield from results


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin and process.stdout
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    process.wait()


def serve() -> None:
    """Compute what comes in through standard input until it is closed."""
    while True:
        try:
            function, chunk = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump([function(*arguments) for arguments in chunk], sys.stdout.buffer)
        sys.stdout.buffer.flush()
