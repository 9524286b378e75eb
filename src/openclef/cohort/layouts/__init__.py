"""Data sets on disk, one reader a layout: which recordings, whose, and what is known of them.

A data set is walked once; its readers see the list of files and the tables among them. `Source`
holds what they found and can be written to one Parquet file, so that no later run walks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openclef.cohort.layouts import bids, folder, heedb, psg, tuh
from openclef.cohort.layouts.source import Records, Source, SourceSession, read_report
from openclef.cohort.layouts.tables import label_columns, make_tasks
from openclef.cohort.layouts.tree import Tree, walk
from openclef.errors import OpenclefError, choose

__all__ = [
    "LAYOUTS",
    "Records",
    "Source",
    "SourceSession",
    "label_columns",
    "make_tasks",
    "read_report",
    "read_source",
]


@dataclass(frozen=True)
class _Layout:
    needs: str
    matches: Callable[[Tree], bool]
    read: Callable[[Tree, Sequence[str]], Source]


_LAYOUTS = {
    "bids": _Layout(bids.NEEDS, bids.matches, bids.read),
    "heedb": _Layout(heedb.NEEDS, heedb.matches, heedb.read),
    "hsp": _Layout(psg.HSP_NEEDS, psg.matches_hsp, psg.read_hsp),
    "tuab": _Layout(tuh.TUAB_NEEDS, tuh.matches_tuab, tuh.read_tuab),
    "tuep": _Layout(tuh.TUEP_NEEDS, tuh.matches_tuep, tuh.read_tuep),
    "challenge2026": _Layout(psg.CHALLENGE_NEEDS, psg.matches_challenge, psg.read_challenge),
    "folder": _Layout(folder.NEEDS, folder.matches, folder.read),
}
LAYOUTS = tuple(_LAYOUTS)


def read_source(
    root: Path,
    *,
    layout: str = "auto",
    labels: Sequence[str] = (),
    expected: Mapping[str, int] | None = None,
) -> Source:
    """List a data set. `layout`: "auto" or one of `LAYOUTS`; `labels`: columns to make tasks of.

    expected: files that will be there once they are read, relative path -> size in bytes.

    Layouts and what is read of each: the modules of this package, from paper.md, "Data sets and
    their layouts".

    Raises
    ------
    OpenclefError
        A path, layout, table or label column that is not there or cannot serve.
    """
    if not root.exists():
        raise OpenclefError(f"{root}: no such folder")
    if not root.is_dir():
        raise OpenclefError(f"{root}: is a file; a data set is a folder (for one file: embed)")
    if layout != "auto":
        choose(layout, LAYOUTS, "layout")
    tree = walk(root)
    if expected:
        tree = Tree(root, dict(sorted({**tree.files, **expected}.items())))
    if not tree.files:
        raise OpenclefError(
            f"{root}: empty folder; expected one of the layouts {', '.join(LAYOUTS)}"
        )
    name = _detect(tree) if layout == "auto" else layout
    source = _LAYOUTS[name].read(tree, labels)
    if not source.sessions:
        others = [other for other in _fitting(tree) if other != name]
        hint = f"; this looks like {' or '.join(others)}" if others else ""
        raise OpenclefError(
            f"{root}: no recordings found in layout {name}: {_LAYOUTS[name].needs}{hint}"
        )
    return source


def _fitting(tree: Tree) -> list[str]:
    return [name for name, layout in _LAYOUTS.items() if layout.matches(tree)]


def _detect(tree: Tree) -> str:
    found = _fitting(tree)
    if len(found) == 1:
        return found[0]
    if found:
        raise OpenclefError(f"{tree.root}: fits the layouts {', '.join(found)}; name one of them")
    needs = "; ".join(layout.needs for layout in _LAYOUTS.values())
    raise OpenclefError(f"{tree.root}: layout not recognised; {needs}")
