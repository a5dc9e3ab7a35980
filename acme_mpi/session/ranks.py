"""What ranks are for the process that they serve, wherever they run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, Self

from acme_mpi.runner.channel import Channel

N_HOSTS = 8  # that are named in a notebook


class Ranks(ABC):
    """Ranks that serve this process, near or far; a context manager that stops them.

    Attributes
    ----------
    ranks : list of (str, int)
        Host and process id of each rank, by its number.
    environment : dict
        The variables that they have as well.
    title, what_next : str
        Which they are, for people, and what to do when they have gone.
    is_direct : bool
        What is sent to rank 0 gets there even if this process ends at once.
    """

    title: ClassVar[str]
    what_next: ClassVar[str]
    is_direct: ClassVar[bool] = False
    ranks: list[tuple[str, int]]
    environment: dict[str, str]

    @property
    @abstractmethod
    def channel(self) -> Channel:
        """To rank 0's agent."""

    def _repr_html_(self) -> str:
        from acme_mpi.report.cell import lines_html

        hosts = self.hosts
        shown = ", ".join(hosts[:N_HOSTS]) + (", ..." if len(hosts) > N_HOSTS else "")
        return lines_html(f"{len(self.ranks)} ranks: {self.status()}", [f"on {shown}"])

    @property
    def hosts(self) -> list[str]:
        """The nodes on which they are."""
        return list(dict.fromkeys(host for host, _ in self.ranks))

    @abstractmethod
    def status(self) -> str:
        """Return ``"running"`` or ``"ended"``."""

    @property
    def is_missed(self) -> bool:
        """Whether they have gone by themselves, and calls must not go elsewhere."""
        return False

    @abstractmethod
    def said(self) -> str:
        """Return what can be known of their end, as the end of a sentence."""

    @abstractmethod
    def show_printed(self) -> None:
        """Show all that tasks have printed by now, if it is shown here."""

    def hear_signal(self) -> None:
        """See that a signal is about to end the running call; raise if it shall not."""
        return None

    @abstractmethod
    def stop(self) -> None:
        """End them; what runs on them is dropped. A second call does nothing."""

    @abstractmethod
    def let_go(self) -> None:
        """Have no part in them in a process that was forked from theirs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __reduce__(self) -> Any:
        raise NotImplementedError("ranks cannot be passed between processes or pickled")
