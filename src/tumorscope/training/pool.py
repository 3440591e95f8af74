"""Work spread over spawned processes, with progress coming back; light to import, since every process does."""

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.managers import SyncManager
from typing import TypeVar

from tumorscope.errors import TumorscopeError

Job = TypeVar("Job")
Event = TypeVar("Event")


def work(
    act: Callable[[Job, Callable[[Event], None]], None],
    jobs: Sequence[Job],
    workers: int,
    report: Callable[[Event], None],
) -> None:
    """Call `act(job, report)` for every job, `workers` at a time; reports arrive in this process.

    The first error ends the rest at their next report and is raised. Processes do not outlive this one, however it ends.
    """
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(end_with_parent)
    # The manager closes before the pool waits: from then on reports fail, which is what stops the jobs under way.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool, manager:
        events: queue.Queue[Event] = manager.Queue()
        futures = [pool.submit(act, job, events.put) for job in jobs]
        try:
            _pass_on(futures, events, report)
        except BrokenProcessPool as error:
            raise TumorscopeError(
                "A worker process was ended from outside, perhaps for lack of memory. What was finished is kept: go on "
                "with --resume, and with --workers 1 where memory is short."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _pass_on(futures: list[Future[None]], events: "queue.Queue[Event]", report: Callable[[Event], None]) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
        while not events.empty():
            report(events.get())
        for future in done:
            future.result()


def end_with_parent() -> None:
    """A killed process cannot end its children, so each child watches for that itself."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
