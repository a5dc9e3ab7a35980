"""joblib's backend whose workers are the ranks. Only `register_joblib` imports this."""

from __future__ import annotations

import operator
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from acme_mpi.errors import InputError
from acme_mpi.pools.executor import Executor
from acme_mpi.pools.future import TaskFuture
from acme_mpi.session import current

NAME = "acme_mpi"


class RanksBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Calls joblib's batches by an executor, which lives as long as one call of `Parallel`.

    `Parallel` looks up no instance of its own: all under one ``parallel_config`` share one. Several
    may be at work, as generators are drawn, so whoever comes second gets an instance of its own.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parallel: Any = None
        self._executor: Executor | None = None
        self._futures: set[TaskFuture] = set()  # those that are not done

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many ranks call for `n_jobs`, >= 1; below 0: all but ``-1 - n_jobs``.

        Raises
        ------
        InputError
            It is 0, or this rank has served the pools of rank 0.
        """
        if n_jobs == 0:
            raise InputError("`n_jobs` has to be a whole number other than 0, or None; -1: all")
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        stream = current().with_ranks(n_jobs if n_jobs > 0 else None).stream()
        if stream is None:
            raise InputError(
                f"rank 0 alone uses joblib's backend {NAME!r}; this rank has served it, and it is "
                "closed now\n  Let rank 0 alone run the script: "
                "mpiexec -n 4 python -m acme_mpi script.py"
            )
        return min(n_jobs, stream.size) if n_jobs > 0 else max(stream.size + 1 + n_jobs, 1)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **kwargs: Any) -> int:
        """Begin calls of a `Parallel`; return how many ranks it has.

        Raises
        ------
        FallbackToBackend
            Another backend is to be taken: there is one rank, or this one is at work.
        """
        n_ranks = self.effective_n_jobs(n_jobs)
        if n_ranks == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self._executor is not None:
            raise FallbackToBackend(RanksBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._executor = Executor(n_ranks)
        return n_ranks

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None
    ) -> TaskFuture:
        """Have a batch called; the callback is told its future, which is done by then."""
        assert self._executor is not None
        # The batch is an argument: as a function it would go to every rank.
        future = self._executor.submit(operator.call, func)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return what a batch has returned, or raise what it has raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End what runs and what waits; further batches can be submitted, whatever is asked."""
        for future in self._futures.copy():
            future.kill()

    def terminate(self) -> None:
        """End the calls of a `Parallel`: its ranks are given back."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor._leave()
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Return the backend inside of tasks: calls are made there and then."""
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None
