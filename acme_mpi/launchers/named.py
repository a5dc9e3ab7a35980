"""Which launcher a word means: a kind, or a name from the site's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.launchers.base import Launcher
from acme_mpi.launchers.local import Local
from acme_mpi.launchers.sge import SGE
from acme_mpi.launchers.site import KIND, LAUNCHERS, Said, Site, read_site
from acme_mpi.launchers.slurm import Slurm
from acme_mpi.spelling import did_you_mean

KINDS: dict[str, type[Launcher]] = {each.kind: each for each in (Local, Slurm, SGE)}


def launcher_of(launch: str | Launcher | None = None, /, **words: Any) -> Launcher:
    """Return the launcher that a name means, with further words. Independent.

    Parameters
    ----------
    launch : str or Local or Slurm or SGE, optional
        ``"local"``, ``"slurm"``, ``"sge"``, or a name from the site's files (docs/sites.md);
        default what they say as ``launch``, else ``"local"``. A launcher is returned as it is, but
        for `words`.
    **words
        Of `Local`, `Slurm` or `SGE`; they overrule what the name stands for. None: nothing is said.

    Returns
    -------
    Local, Slurm or SGE
        What `launch`, `submit` and `map` take.

    Raises
    ------
    InputTypeError, InputError
        There is no such name or word, a word has a wrong value, the number of ranks is missing, or
        something is wrong in the site's files.

    Examples
    --------
    >>> import acme_mpi
    >>> acme_mpi.launcher_of("slurm", n=64, partition="8GBS").n
    64
    """
    said = {name: value for name, value in words.items() if value is not None}
    if isinstance(launch, Launcher):
        _refuse_unknown(type(launch), said)
        return replace(launch, **said) if said else launch
    if launch is not None and not isinstance(launch, str):
        raise InputTypeError(
            "`launch` has to be the name of a launcher, acme_mpi.Local(...), acme_mpi.Slurm(...) "
            f"or acme_mpi.SGE(...), not {launch!r}"
        )
    site = read_site()
    name, source = (launch, "") if launch is not None else site.launch or (Local.kind, "")
    if name in KINDS:
        return _make(name, KINDS[name], said)
    if name not in site.launchers:
        known = [*KINDS, *site.launchers]
        at = f"{source}: " if source else ""
        raise InputError(
            f"{at}`launch` has to be one of {', '.join(map(repr, known))}, not {name!r}"
            f"{did_you_mean(name, known)}\n  {site}"
        )
    return _of_site(site, name, said)


def _of_site(site: Site, name: str, words: Mapping[str, Any]) -> Launcher:
    """Return a launcher from the files, of which each word is checked by itself."""
    table = dict(site.launchers[name])
    kind = table.pop(KIND, None)
    title = f"{LAUNCHERS}.{name}"
    allowed = " or ".join(repr(each) for each in KINDS)
    if kind is None:
        source = next((said.source for said in table.values()), ", ".join(site.read))
        raise InputError(f"{source}: `{title}` needs a `{KIND}`: {allowed}")
    if not isinstance(kind.value, str) or kind.value not in KINDS:
        raise InputError(
            f"{kind.source}: `{title}.{KIND}` has to be {allowed}, not {kind.value!r}"
            f"{did_you_mean(str(kind.value), KINDS)}"
        )
    cls = KINDS[kind.value]
    for word, said in table.items():
        _check_alone(cls, title, word, said)
    return _make(name, cls, {**{word: said.value for word, said in table.items()}, **words})


def _check_alone(cls: type[Launcher], title: str, word: str, said: Said) -> None:
    try:
        _refuse_unknown(cls, {word: said.value})
        cls(**{"n": 1, "prologue": (), word: said.value})
    except InputError as error:
        raise type(error)(f"{said.source}: `{title}`: {error}") from None


def _make(name: str, cls: type[Launcher], words: Mapping[str, Any]) -> Launcher:
    _refuse_unknown(cls, words)
    if cls is not Local and "n" not in words:
        raise InputError(
            "`n`, the number of ranks, is missing: -n 64 on the command line, or acme_mpi."
            f"launcher_of({name!r}, n=64) as `launch`"
        )
    return cls(**words)


def _refuse_unknown(cls: type[Launcher], words: Mapping[str, Any]) -> None:
    known = [each.name for each in fields(cls)]
    for word in words:
        if word not in known:
            raise InputError(
                f"`{word}` is no word of {cls.__name__}{did_you_mean(word, known)}; there are "
                f"{', '.join(known)}"
            )
