"""What the tests of the ingest share: data sets, cohorts of them, and the command."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edfio
import numpy as np

from openclef.cohort.engine import Engine, LocalEngine
from openclef.cohort.ingest import IngestConfig, find_source, ingest
from openclef.cohort.store import Cohort

COMMAND = "from openclef.cli import main; main()"


class Here:
    """Works in this process, where a test can break what it likes."""

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def map(self, function, items):
        return ((item, function(item)) for item in items)


def read(
    source: Path,
    out: Path,
    *,
    layout: str = "auto",
    labels: Sequence[str] = (),
    engine: Engine | None = None,
    **settings: Any,
) -> Cohort:
    """Ingest a data set as the command does."""
    found = find_source(source, out, layout=layout, labels=labels)
    config = IngestConfig(labels=tuple(labels), **settings)
    ingest(found, out, config=config, engine=engine or LocalEngine(n_workers=1), progress=False)
    return Cohort(out)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones too, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A process of its own that runs `code` as `openclef` with these arguments."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def edf_signals(
    n_seconds: int, *, labels: Sequence[str], sfreq_hz: int = 200, seed: int = 0
) -> Any:
    """Noise of 20 uV, 19 channels or fewer."""
    rng = np.random.default_rng(seed)
    return [
        edfio.EdfSignal(
            np.clip(20 * rng.standard_normal(sfreq_hz * n_seconds), -500, 500),
            sfreq_hz,
            label=label,
            physical_dimension="uV",
            physical_range=(-500, 500),
        )
        for label in labels
    ]


def write_folder(
    folder: Path, *, n_patients: int, n_seconds: int = 12, labels: Sequence[str] = ("Fp1", "O1")
) -> Path:
    """A data set of layout `folder`: `0.edf`, `1.edf`, ..., a patient each, two diagnoses."""
    folder.mkdir()
    rows = ["subject,file,diagnosis"]
    for i in range(n_patients):
        edfio.Edf(edf_signals(n_seconds + i, labels=labels, seed=i)).write(folder / f"{i}.edf")
        rows.append(f"p{i},{i}.edf,{'ab'[i % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder
