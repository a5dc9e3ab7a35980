"""Which call of a stream has ended a process, where that did not say what it was calling."""

from __future__ import annotations


class Blame:
    """How often calls have ended their processes, and how those are found that do.

    What a call does to its process may show only later. So after such an end fewer and fewer calls
    are given to new processes, until one has a single one.

    Attributes
    ----------
    most : int or None
        So many calls may a process have at once, >= 1; None: as many as there are.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self._last_suspect = -1  # `most` is for calls up to that with this number
        self._n_deaths: dict[int, int] = {}  # by the number of the call

    def is_single(self, n_calls: int, last: int, has_reported: bool) -> bool:
        """Tell whether a call is found; if not, fewer go to the next process.

        Parameters
        ----------
        n_calls : int
            That the process had, >= 1.
        last : int
            The number of the last of them.
        has_reported : bool
            It has returned other calls before: one of those may have made it unfit.
        """
        self._last_suspect = max(self._last_suspect, last)
        if has_reported:
            self.most = self.most or n_calls
        elif n_calls > 1:
            self.most = n_calls // 2
        return n_calls == 1 and not has_reported

    def end_search(self, number: int) -> None:
        """Hear that a process which has nothing gets the call with this number next."""
        if number > self._last_suspect:
            self.most = None

    def note_death(self, index: int) -> int:
        """Hear which call has ended its process; return how often it has."""
        self._n_deaths[index] = self._n_deaths.get(index, 0) + 1
        return self._n_deaths[index]

    def is_known(self, calls: range) -> bool:
        """Tell whether one of some calls has ended a process."""
        return any(index in calls for index in self._n_deaths)

    def renumber(self, calls: range, number: int) -> None:
        """Hear that calls have other numbers now, the first of them this one."""
        for index in [index for index in self._n_deaths if index in calls]:
            self._n_deaths[index - calls.start + number] = self._n_deaths.pop(index)
        if calls.start <= self._last_suspect:
            self._last_suspect = max(self._last_suspect, number + len(calls) - 1)

    def forget(self, calls: range) -> None:
        """Hear that some calls have an end."""
        for index in [index for index in self._n_deaths if index in calls]:
            del self._n_deaths[index]
