"""Health records of a cohort's patients: a MEDS data set in, a date-shifted one out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import meds
import polars as pl

from openclef.artefact import atomic, write_json
from openclef.clinical import DISEASES, MEDICATIONS, label, split_code
from openclef.clinical.codes import ATC, ICD10CM
from openclef.errors import OpenclefError

_COLUMNS: dict[str, Any] = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
}
# MEDS knows three splits; ours are kept beside them in a column `role`.
_MEDS_SPLIT = {
    "train": meds.train_split,
    "probe": meds.train_split,
    "tuning": meds.tuning_split,
    "held_out": meds.held_out_split,
}


def read_meds(folder: Path) -> pl.DataFrame:
    """Events of a MEDS data set: `subject_id, time, code, numeric_value`. Free text stays behind.

    Raises OpenclefError if a shard lacks a required column.
    """
    shards = sorted((folder / "data").rglob("*.parquet"))
    frames = []
    for shard in shards:
        try:
            frame = pl.read_parquet(shard)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise OpenclefError(f"{shard}: cannot be read as Parquet ({error})") from error
        missing = {"subject_id", "time", "code"} - set(frame.columns)
        if missing:
            raise OpenclefError(f"{shard}: not MEDS, column {sorted(missing)[0]!r} is missing")
        if "numeric_value" not in frame.columns:
            frame = frame.with_columns(numeric_value=pl.lit(None, pl.Float32))
        try:
            typed = frame.select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items())
        except pl.exceptions.PolarsError as error:
            raise OpenclefError(
                f"{shard}: not MEDS, a column has another type ({error})"
            ) from error
        frames.append(typed.filter(pl.col("code").str.len_bytes() > 0))
    if not frames:
        return no_events()
    return pl.concat(frames).sort("subject_id", "time", "code", nulls_last=False)


def no_events() -> pl.DataFrame:
    """The events of a data set without records."""
    return pl.DataFrame(schema=_COLUMNS)


def write_meds(
    events: pl.DataFrame,
    folder: Path,
    *,
    splits: Mapping[int, str],
    shifts: Mapping[int, timedelta],
    undatable: set[int],
) -> None:
    """Write the events of the cohort's patients, dates shifted, one shard a split.

    `undatable`: patients whose birth must not be known (over 89): their birth loses its date, as
    does that of patients whom the records themselves follow beyond 89.
    """
    people = pl.DataFrame(
        {
            "subject_id": list(splits),
            "role": list(splits.values()),
            "shift": [shifts[subject] for subject in splits],
        },
        schema={"subject_id": pl.Int64, "role": pl.String, "shift": pl.Duration("us")},
    )
    undatable = undatable | _over_89(events)
    is_secret = (pl.col("code") == meds.birth_code) & pl.col("subject_id").is_in(list(undatable))
    shifted = events.join(people, on="subject_id").with_columns(
        time=pl.when(~is_secret).then(pl.col("time") + pl.col("shift")),
        split=pl.col("role").replace_strict(_MEDS_SPLIT),
    )
    for split in sorted(set(_MEDS_SPLIT.values())):
        rows = shifted.filter(pl.col("split") == split).select(list(_COLUMNS))
        rows = rows.sort("subject_id", "time", "code", nulls_last=False)
        with atomic(folder / "data" / split / "0.parquet") as temporary:
            rows.write_parquet(temporary)
    with atomic(folder / meds.subject_splits_filepath) as temporary:
        people.select(
            "subject_id", pl.col("role").replace_strict(_MEDS_SPLIT).alias("split"), "role"
        ).write_parquet(temporary)
    codes = (
        shifted.select("code")
        .unique()
        .sort("code")
        .with_columns(
            description=pl.lit(None, pl.String),
            parent_codes=pl.lit(None, pl.List(pl.String)),
        )
    )
    with atomic(folder / meds.code_metadata_filepath) as temporary:
        codes.write_parquet(temporary)
    write_json(
        folder / meds.dataset_metadata_filepath,
        {"dataset_name": "openclef cohort", "meds_version": meds.__version__},
    )


def _over_89(events: pl.DataFrame) -> set[int]:
    """Patients whose last event comes 90 years or more after their birth."""
    born = pl.col("time").filter(pl.col("code") == meds.birth_code).min()
    lives = events.group_by("subject_id").agg(days=(pl.col("time").max() - born).dt.total_days())
    return set(lives.filter(pl.col("days") >= 90 * 365.2425)["subject_id"])


def patient_codes(events: pl.DataFrame) -> dict[int, list[str]]:
    """Diagnosis and medication codes of each patient, ever (HEEDB's are undated, paper.md [C])."""
    kinds = pl.col("code").map_elements(lambda code: split_code(code)[0], return_dtype=pl.String)
    coded = events.filter(kinds.is_in([ICD10CM, ATC]))
    grouped = coded.group_by("subject_id").agg(pl.col("code").unique().sort())
    return {row["subject_id"]: row["code"] for row in grouped.iter_rows(named=True)}


def record_labels(codes: Mapping[int, list[str]], subject_id: int) -> dict[str, tuple[str, int]]:
    """Disease and medication labels of a patient; -1 for all without any code: no record."""
    own = codes.get(subject_id)
    return {
        phenotype.name: (phenotype.category, -1 if own is None else int(label(own, phenotype)))
        for phenotype in (*DISEASES, *MEDICATIONS)
    }
