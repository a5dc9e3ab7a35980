"""What overrules the guess which arguments are split: `PerTask` and `Shared`."""

from __future__ import annotations

from typing import Any


class PerTask:
    """Mark an argument as split: task i gets item i along `axis`.

    Parameters
    ----------
    value : sequence or array_like
        Array of any dimension, or a sequence, whose items come as they are. Not a dictionary or a
        set, whose items have no numbers: ``PerTask(list(x))``.
    axis : int
        Axis that counts the tasks, default 0; negative values count from the end.

    Examples
    --------
    >>> import acme_mpi
    >>> import numpy as np
    >>> columns = acme_mpi.PerTask(np.eye(3), axis=1)
    >>> acme_mpi.map(np.argmax, columns, write_worker_results=False) == [0, 1, 2]
    True
    """

    def __init__(self, value: Any, axis: int = 0) -> None:
        self.value = value
        self.axis = axis


class Shared:
    """Mark an argument as shared: every task gets the whole `value`.

    Parameters
    ----------
    value : object
        Passed to each call as it is.

    Examples
    --------
    >>> import acme_mpi
    >>> def is_known(x, names):
    ...     return x in names
    >>> known = acme_mpi.Shared(["b", "c"])
    >>> acme_mpi.map(is_known, ["a", "b"], known, write_worker_results=False)
    [False, True]
    """

    def __init__(self, value: Any) -> None:
        self.value = value
