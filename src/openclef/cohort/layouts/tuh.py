"""`tuab` and `tuep`: the corpora of Temple University Hospital; labels are the folders.

TUAB v3.0.1: `edf/{train,eval}/{normal,abnormal}/01_tcp_ar/<subject>_s###_t###.edf`. TUEP v2.0.1:
`{00_epilepsy,01_no_epilepsy}/<subject>/s###_YYYY/{01_tcp_ar,02_tcp_le,03_tcp_ar_a}/...edf`, whose
channels end in `-REF` or `-LE`. Folders above or between these may be there or not: earlier
versions of TUAB have some. The subject is the file name's first part. Age and sex stand in the
EDF patient field, which is all that is read of a recording here. No reports are distributed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from openclef.cohort.deidentify import pooled_age
from openclef.cohort.layouts.source import OfficialSplit, Source, SourceSession
from openclef.cohort.layouts.tree import Tree
from openclef.errors import OpenclefError

TUAB_NEEDS = "tuab has edf/{train,eval}/{normal,abnormal}/**/<subject>_s###_t###.edf"
TUEP_NEEDS = "tuep has {00_epilepsy,01_no_epilepsy}/**/<subject>_s###_t###.edf"

_FILE = r"(?:[^/]+/)*(?P<subject>[A-Za-z0-9]+)_s\d+(?:_\d+)*_t\d+\.edf"
_TUAB = re.compile(rf"(?:edf/)?(?P<split>train|eval)/(?P<label>normal|abnormal)/{_FILE}")
_TUEP = re.compile(rf"(?:edf/)?(?P<label>00_epilepsy|01_no_epilepsy)/{_FILE}")
_PATIENT_FIELD = slice(8, 88)
_AGE = re.compile(r"\bAge:(\d{1,3})\b")
_SEX = re.compile(r"(?<!\S)([MF])(?!\S)")


def matches_tuab(tree: Tree) -> bool:
    """Whether the tree has a recording where TUAB has its own."""
    return tree.any(_TUAB)


def matches_tuep(tree: Tree) -> bool:
    """Whether the tree has a recording where TUEP has its own."""
    return tree.any(_TUEP)


def read_tuab(tree: Tree, labels: Sequence[str]) -> Source:
    """Read TUAB: the label `abnormal` of each recording, and the official split.

    Raises OpenclefError if `labels` are asked for: there is no table to take them from.
    """
    return _read(tree, "tuab", _TUAB, "abnormal", "abnormal", labels)


def read_tuep(tree: Tree, labels: Sequence[str]) -> Source:
    """Read TUEP: the label `epilepsy` of each patient. It has no official split.

    Raises OpenclefError if a patient lies in both folders, or `labels` are asked for.
    """
    source = _read(tree, "tuep", _TUEP, "epilepsy", "00_epilepsy", labels)
    seen: dict[str, set[tuple[str, int]]] = {}
    for session in source.sessions:
        seen.setdefault(session.subject, set()).add(session.labels["epilepsy"])
    n_both = sum(len(values) > 1 for values in seen.values())
    if n_both:
        raise OpenclefError(
            f"{tree.root}: {n_both} patients lie in both 00_epilepsy and 01_no_epilepsy; "
            "a patient has one label"
        )
    return source


def _read(
    tree: Tree,
    layout: str,
    pattern: re.Pattern[str],
    task: str,
    positive: str,
    labels: Sequence[str],
) -> Source:
    if labels:
        raise OpenclefError(
            f"{tree.root}: layout {layout} has no table to take the label {labels[0]!r} from; "
            f"its label {task!r} comes from the folders by itself"
        )
    recordings = list(tree.match(pattern))
    subjects = sorted({found["subject"] for _, found in recordings})
    numbers = {name: number for number, name in enumerate(subjects, start=1)}
    sessions = []
    for path, found in recordings:
        age, sex = _age_and_sex(tree.root / path)
        sessions.append(
            SourceSession(
                path=tree.root / path,
                subject=found["subject"],
                subject_id=numbers[found["subject"]],
                site="TUH",
                age=age,
                sex=sex,
                labels={task: ("label", int(found["label"] == positive))},
                size_bytes=tree.files[path],
                official_split=cast("OfficialSplit | None", found.groupdict().get("split")),
            )
        )
    return Source(tree.root, layout, tuple(sessions))


def _age_and_sex(path: Path) -> tuple[float | None, str | None]:
    """Age in years and sex of the EDF patient field; a file that cannot be read is ingest's."""
    try:
        with path.open("rb") as handle:
            patient = handle.read(_PATIENT_FIELD.stop)[_PATIENT_FIELD].decode("latin-1")
    except OSError:
        return None, None
    age, sex = _AGE.search(patient), _SEX.search(patient)
    years = float(age.group(1)) if age else None
    return pooled_age(years), sex.group(1) if sex else None
