"""Errors for users: each says what was given, what is allowed and the nearest valid value.

The command line prints any `OpenclefError` as one line on stderr and exits with code 2;
anything else is our own bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OpenclefError(ValueError):
    """Something the user gave cannot be used; the message says what and what would be."""


class RecordingError(OpenclefError):
    """A recording that cannot be read; recorded in `errors.parquet` and skipped by `ingest`."""


class ArtefactError(OpenclefError):
    """An artefact folder is missing, incomplete, of another kind or of another configuration."""


def choose(given: str, allowed: Iterable[str], what: str) -> str:
    """Return `given` if it is allowed, else raise naming the allowed values and the nearest one."""
    names = sorted(allowed)
    if given in names:
        return given
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    raise OpenclefError(f"unknown {what} {given!r}; allowed: {shown or 'none'}{hint}")
