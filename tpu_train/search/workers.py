"""Starts the workers of a study as processes of this machine. Imports no TensorFlow."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

from tpu_train.checkpointing.preemption import STOPPED
from tpu_train.search.request import SearchRequest

_POLL_SECONDS = 0.2
_MOST_RESTARTS = 20  # of workers that a signal has ended


def run_workers(
    work: Callable[[SearchRequest, Callable[[], str]], int],
    request: SearchRequest,
    stop: Callable[[], str],
) -> int:
    """Runs ``request.workers`` processes until the study is complete; the exit status.

    `work` is a function of a module: it takes the request and a function that returns the reason to
    stop, and returns an exit status. A worker that a signal has ended is replaced by a new one,
    which continues the same trials. `stop` returns the reason to stop all of them, or "".
    """
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    threads = max(1, (os.cpu_count() or 1) // request.workers)

    def start():
        process = context.Process(target=_run, args=(work, request, os.getpid(), threads))
        process.start()
        return process

    processes = [start() for _ in range(request.workers)]
    restarts, statuses, stopping, error = 0, [], False, 0
    try:
        while processes:
            if not stopping and (error or stop()):
                stopping = True
                _terminate(processes)
            time.sleep(_POLL_SECONDS)
            for process in [p for p in processes if not p.is_alive()]:
                processes.remove(process)
                status = process.exitcode
                statuses.append(status)
                if status < 0 and not stopping and restarts < _MOST_RESTARTS:
                    statuses.pop()
                    restarts += 1
                    name = signal.Signals(-status).name
                    print(f"a worker was ended by {name}; starting another one", file=sys.stderr)
                    processes.append(start())
                elif status not in (0, STOPPED) and not stopping and not stop():
                    error = status if status > 0 else 1  # the others would fail, too
                    if status < 0:
                        print(
                            f"{_MOST_RESTARTS} workers were ended by signals, the last one by "
                            f"{signal.Signals(-status).name}: give fewer --workers or a smaller "
                            "--batch_size",
                            file=sys.stderr,
                        )
    finally:
        _terminate(processes)
        for process in processes:
            process.join()
    return error or (0 if 0 in statuses else STOPPED)  # 0: the study is complete


def _run(work, request, parent, threads):
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))  # read when TensorFlow starts

    def parent_ended():
        return "" if os.getppid() == parent else "the process that started this worker has ended"

    sys.exit(work(request, parent_ended))


def _terminate(processes):
    for process in processes:
        process.terminate()
