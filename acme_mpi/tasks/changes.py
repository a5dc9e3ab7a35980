"""What differs between two fingerprints, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from acme_mpi.tasks.fingerprint import CALLED, VERSION


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return in words what makes two fingerprints different computations; versions do not.

    Parameters
    ----------
    old, new : mapping of str to str
        From `fingerprint_of`.

    Returns
    -------
    list of str
        Sentences without a full stop; empty if it is the same computation.
    """
    name = new.get("function", "")
    # Of what an earlier version of this package did not look at nothing can be said.
    keys = [k for k in _keys(old, new) if not k.startswith(CALLED) or (k in old and k in new)]
    return [
        sentence
        for key in keys
        if not key.startswith(VERSION) and old.get(key) != new.get(key)
        for sentence in _sentences(key, old.get(key), new.get(key), name)
    ]


def without_source(fingerprint: Mapping[str, str]) -> dict[str, str]:
    """Return a fingerprint as of any function of that name: what failed may have been mended."""
    return {
        key: value
        for key, value in fingerprint.items()
        if key != "source" and not key.startswith(CALLED)
    }


def version_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return in words which versions differ, as `changes` does for all else."""
    return [
        _is_and_was(key.removeprefix(VERSION), old.get(key), new.get(key))
        for key in _keys(old, new)
        if key.startswith(VERSION) and old.get(key) != new.get(key)
    ]


def _keys(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [*new, *(key for key in old if key not in new)]


def _sentences(key: str, old: str | None, new: str | None, function: str) -> Iterator[str]:
    label = f"argument `{key.removeprefix('argument ')}`"
    if key == "function":
        yield _is_and_was("the function", old and f"`{old}`", new and f"`{new}`")
    elif key == "source":
        yield f"the source of `{function}` has changed"
    elif key.startswith(CALLED):
        called = key.removeprefix(CALLED)
        yield f"the source of {called} has changed, to which `{function}` refers"
    elif key == "n_inputs":
        yield _is_and_was("the number of tasks", old, new)
    elif not key.startswith("argument "):
        yield _is_and_was(f"`{key}`", old, new)
    elif old is None or new is None:
        yield f"{label} is {'new' if old is None else 'gone'}"
    else:
        (old_how, _, old_digest), (new_how, _, new_digest) = old.partition(" "), new.partition(" ")
        if old_how != new_how:
            yield _is_and_was(label, old_how, new_how)
        if old_digest != new_digest:
            yield f"{label} has changed"


def _is_and_was(what: str, old: str | None, new: str | None) -> str:
    if old is None:
        return f"{what} is {new} and was not there"
    return f"{what} was {old} and is not there" if new is None else f"{what} is {new} and was {old}"
