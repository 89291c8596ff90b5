"""The server, and several processes of one service: forks of it, which take connections from one socket.

A fork shares the memory of what was loaded before, starts in milliseconds, and needs no import. Whichever process is idle
takes the next connection; a process that hangs takes none.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Server as Uvicorn

from tabloop.serving.protocol import Cycle

PAUSE = 1.0  # seconds until a process that was killed as soon as it had started is started again


class Processes:
    """Runs `work` in forks of this process, which waits for them. On SIGTERM or SIGINT all end."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.running: dict[int, float] = {}  # when each was started, by its process id
        self.leaving = False
        # Its writing end is closed when this process ends, however that happens: then the forks end, too.
        self.alive = os.pipe()

    def run(self, count: int) -> int:
        """Keep `count` processes running until SIGTERM. One that is killed is started again.

        Returns:
            The exit code: 0, or that of a process that ended by itself, which ends all.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)
        for _ in range(count):
            self._start()
        failed = 0
        while True:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                return failed
            # As process 1 of a container it waits for the log's processes of killed ones, too.
            if (since := self.running.pop(pid, None)) is None or self.leaving:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code >= 0:
                failed = code
                self._leave()
                continue
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
            name = signal.Signals(-code).name
            text = f"serve: process {pid} was killed by {name}; another one is started"
            print(text, file=sys.stderr, flush=True)
            if time.monotonic() - since < PAUSE:
                time.sleep(PAUSE)
            self._start()

    def _start(self) -> None:
        """Fork, unless all are to end."""
        both = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, both)  # so that none is forked that `_leave` does not know
        if not self.leaving:
            if not (pid := os.fork()):
                self._work(both)
            self.running[pid] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)

    def _work(self, blocked: set[signal.Signals]) -> None:
        """What a fork does, up to its end."""
        code = 1
        try:
            os.close(self.alive[1])
            threading.Thread(target=self._watch, daemon=True).start()
            for number in blocked:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            self.work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            os._exit(code)  # without what this process registered for its own end

    def _watch(self) -> None:
        os.read(self.alive[0], 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _leave(self, *_: object) -> None:
        self.leaving = True
        for pid in self.running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


class Server(Uvicorn):
    """uvicorn's server. It ends with the access log: behind `run` is too late, as it raises SIGTERM again."""

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop, after the last answer and the end of the application."""
        await super().shutdown(sockets)
        if Cycle.access:
            Cycle.access.stop()
