"""A child process for work on hostile bytes: whatever it does to itself, it costs one item and never the task.

    with Guard("toolkit.image.measures:measured", {"max_pixels": 64_000_000}, memory_mb=2048, timeout_s=30) as guard:
        for answer in guard.map(payloads): ...          # bytes, or a Fault, in order

Promises: the child may take `memory_mb` of address space above its own, `timeout_s` of processor time for one item,
writes no file and no core, and dies with its parent (on Linux, with the thread that started it). An item that takes
the child down (or out of memory) is tried once more, alone, in a fresh child, and only that child's end is believed:
so an answer depends on the item, not on its neighbours, and a child killed by someone else costs nothing. What comes
back is plain bytes, never a pickle.

The child is a new interpreter (not a fork, which copies locks held by the threads of others; not `multiprocessing`,
which refuses children of daemonic workers), so it may be used from any kind of worker. Items go in frames: the child
reads a whole frame before it answers, one answer an item, so neither side can wait for the other's full pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from toolkit.errors import WorkError

FRAME_ITEMS = 64
FRAME_BYTES = 8_000_000
PIPE_BYTES = 1 << 20  # what Linux grants every user
START_S = 120  # longest time in which an interpreter starts on a loaded node with a cold file system
PATIENCE = 10  # processor time is limited by the child itself; a child that sleeps is given up after so many time-outs

# Imported, not run as a module: the work's faults are of the class that is caught here.
_CHILD = f"import sys; from {__name__} import main; main(*sys.argv[1:])"
READY, DONE, FAILED = b"r", b"d", b"f"
_COUNT = struct.Struct("<I")
_ANSWER = struct.Struct("<cI")


# How an item ends its child, which says it of itself; other words are those of the work.
ENDS = {
    "memory": "a fresh child process ran out of memory",
    "time": "a fresh child process ran out of time",
    "crash": "a fresh child process died of it",
}


class Fault(Exception):  # noqa: N818 (of an item, told to the task; not an error of the task)
    """An item without an answer; `word` says why, in one word of `ENDS` or of the work's own list."""

    def __init__(self, word: str) -> None:
        super().__init__(ENDS.get(word, word))
        self.word = word


class Guard:
    """Run `work(data, **option) -> bytes`, named as "module:function", on many items in a guarded child process."""

    def __init__(self, work: str, option: Mapping[str, Any], *, memory_mb: int, timeout_s: float) -> None:
        self._command = [work, json.dumps(dict(option)), str(memory_mb), str(timeout_s)]
        self._patience_s = PATIENCE * timeout_s
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def map(self, items: Iterable[bytes | Fault]) -> Iterator[bytes | Fault]:
        """Yield one answer an item, in order; items that are faults already pass through."""
        for frame in _frames(items):
            answers = self._answers([item for item in frame if isinstance(item, bytes)])
            for item in frame:
                yield item if isinstance(item, Fault) else next(answers)

    def _answers(self, items: list[bytes]) -> Iterator[bytes | Fault]:
        done = 0
        while done < len(items):
            for answer in self._exchange(items[done:]):
                if _suspect(answer):
                    break
                yield answer
                done += 1
            if done < len(items):  # this item ended the child, or the child ran out of memory on it
                yield self._alone(items[done])
                done += 1

    def _alone(self, item: bytes) -> bytes | Fault:
        self._stop()
        answers = list(self._exchange([item]))
        answer = answers[0] if answers else Fault(self._cause())
        if _suspect(answer):
            self._stop()
        return answer

    def _exchange(self, items: list[bytes]) -> Iterator[bytes | Fault]:
        """Send one frame and yield its answers, fewer than items where the child ends."""
        child = self._child or self._start()
        with contextlib.suppress(BrokenPipeError, EOFError):
            _send(_fd(child.stdin), items)
            for _ in items:
                kind, body = _receive(_fd(child.stdout), self._patience_s)
                yield Fault(body.decode()) if kind == FAILED else body

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join([root, *(path for path in sys.path if path)])
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, str(os.getpid()), *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": paths},
        )
        for pipe in (self._child.stdin, self._child.stdout):
            _widen(_fd(pipe))
        try:
            _receive(_fd(self._child.stdout), START_S)
        except EOFError as error:
            self._stop()
            raise WorkError(
                f"A guarded child process did not start ({self._command[0]} in {sys.executable}); its own words "
                "stand above in the log. Check that a new interpreter can import the toolkit on this machine."
            ) from error
        return self._child

    def _cause(self) -> str:
        """Return the fault of a child that ended in the middle of an item."""
        child = self._child
        if child is None:
            return "crash"
        try:
            child.wait(timeout=1)
        except subprocess.TimeoutExpired:  # it sleeps: our own patience ended
            return "time"
        return "time" if child.returncode == -signal.SIGPROF else "crash"

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _suspect(answer: bytes | Fault) -> bool:
    """Return whether an answer says more about the child than about the item."""
    return isinstance(answer, Fault) and answer.word in ENDS


def _frames(items: Iterable[bytes | Fault]) -> Iterator[list[bytes | Fault]]:
    frame: list[bytes | Fault] = []
    size = 0
    for item in items:
        more = len(item) if isinstance(item, bytes) else 0
        if frame and (len(frame) == FRAME_ITEMS or size + more > FRAME_BYTES):
            yield frame
            frame, size = [], 0
        frame.append(item)
        size += more
    if frame:
        yield frame


def _fd(pipe: Any) -> int:
    fd: int = pipe.fileno()
    return fd


def _widen(fd: int) -> None:
    """Let a pipe hold more than 64 KiB where the system can: fewer changes between the processes."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _send(fd: int, items: list[bytes]) -> None:
    sizes = struct.pack(f"<{len(items)}I", *map(len, items))
    _write(fd, _COUNT.pack(len(items)) + sizes)
    for item in items:
        _write(fd, item)


def _receive(fd: int, patience_s: float) -> tuple[bytes, bytes]:
    """Read one answer; raises EOFError where the child ended, or was silent for longer than `patience_s`."""
    kind, size = _ANSWER.unpack(_read(fd, _ANSWER.size, patience_s))
    return kind, _read(fd, size, patience_s)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _read(fd: int, size: int, patience_s: float | None = None) -> bytes:
    parts = []
    while size:
        if patience_s is not None and not select.select([fd], [], [], patience_s)[0]:
            raise EOFError
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def main(parent: str, work: str, option: str, memory_mb: str, timeout_s: str) -> None:
    """Be the child: answer frames from standard input until it ends."""
    _follow(int(parent))
    source, sink, nowhere = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)  # libraries that print must not print into the answers
    function = _load(work)
    os.dup2(nowhere, 2)  # libraries complain of hostile bytes; a failed import above is still seen
    _limit(int(memory_mb))
    _write(sink, _ANSWER.pack(READY, 0))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            for item in _frame(source):
                kind, body = _answer(function, item, json.loads(option), float(timeout_s))
                _write(sink, _ANSWER.pack(kind, len(body)) + body)


def _follow(parent: int) -> None:
    """Die with the parent, and only with it: signals that ask a task to stop reach its children too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(0)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _load(work: str) -> Callable[..., bytes]:
    module, _, function = work.partition(":")
    loaded: Callable[..., bytes] = getattr(importlib.import_module(module), function)
    return loaded


def _limit(memory_mb: int) -> None:
    """Limit address space, files and cores; macOS has no per-process account of address space to start from."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = own + memory_mb * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _frame(source: int) -> list[bytes]:
    (count,) = _COUNT.unpack(_read(source, _COUNT.size))
    sizes = struct.unpack(f"<{count}I", _read(source, 4 * count))
    return [_read(source, size) for size in sizes]


def _answer(
    function: Callable[..., bytes], item: bytes, option: dict[str, Any], timeout_s: float
) -> tuple[bytes, bytes]:
    signal.setitimer(signal.ITIMER_PROF, timeout_s)  # at its end SIGPROF kills, inside C code too
    try:
        return DONE, function(item, **option)
    except Fault as fault:
        return FAILED, fault.word.encode()
    except MemoryError:
        return FAILED, b"memory"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
