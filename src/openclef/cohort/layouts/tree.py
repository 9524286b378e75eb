"""One walk over a data set: every file with its size; all readers work from this list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from openclef.errors import OpenclefError
from openclef.signal.formats import FOLDER_SUFFIXES


@dataclass(frozen=True)
class Tree:
    """Files below `root`: relative path with `/` -> size in bytes, sorted by path.

    A file that is listed but cannot be reached (a link whose content was not fetched) has the
    size None.
    """

    root: Path
    files: Mapping[str, int | None]

    def match(self, pattern: re.Pattern[str]) -> Iterator[tuple[str, re.Match[str]]]:
        """Yield the files whose whole relative path matches, in order."""
        for path in self.files:
            found = pattern.fullmatch(path)
            if found:
                yield path, found

    def any(self, pattern: re.Pattern[str]) -> bool:
        return next(self.match(pattern), None) is not None


def walk(root: Path) -> Tree:
    """List a data set once.

    Names that start with a dot are left out (caches, `._` copies, `.git`). Linked folders are
    followed, each once, so that a link to a folder above cannot go round for ever.

    Raises
    ------
    OpenclefError
        A folder cannot be listed.
    """
    files: dict[str, int | None] = {}
    waiting = [("", str(root))]
    linked = {os.path.realpath(root)}
    while waiting:
        relative, folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise OpenclefError(f"{folder}: cannot be listed ({error.strerror})") from error
        for entry in listed:
            path = relative + entry.name
            if not entry.is_dir():
                files[path] = _size(entry)
            elif entry.name.lower().endswith(FOLDER_SUFFIXES):  # one recording, not a place to look
                files[path] = sum(size or 0 for size in walk(Path(entry.path)).files.values())
            elif not entry.is_symlink() or _is_new(entry.path, linked):
                waiting.append((f"{path}/", entry.path))
    return Tree(root, {path: files[path] for path in sorted(files)})


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:
        return None


def _is_new(path: str, linked: set[str]) -> bool:
    real = os.path.realpath(path)
    if real in linked:
        return False
    linked.add(real)
    return True
