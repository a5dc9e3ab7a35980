"""Get and set the handlers of signals at once.

What `signal.signal` and `signal.getsignal` return is an enumeration where it can be one, which
they find out by an exception. With a handler that is a function that takes several microseconds.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
from collections.abc import Callable
from typing import Any

handler_of: Callable[[int], Any] = _signal.getsignal
set_handler: Callable[[int, Any], Any] = _signal.signal
