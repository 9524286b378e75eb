"""Health records of a cohort's patients: MEDS or HEEDB's tables in, a date-shifted MEDS out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import meds
import polars as pl

from openclef.artefact import atomic, write_json
from openclef.clinical import DISEASES, MEDICATIONS, label
from openclef.clinical.codes import ATC, ICD10CM, meds_code
from openclef.cohort.layouts import Records, bdsp
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
# "Codes of this system were looked for", a static event of ours: a patient without any code in
# a table that lists the patient never had one, which is not the same as no record.
_RECORDED = "RECORD"
_HEEDB_TABLES = {
    "HEEDB_ICD10_for_Neurology.csv": (ICD10CM, r"^[A-Z][0-9][0-9A-Z]\.?[0-9A-Z]{0,4}$"),
    "HEEDB_Medication_ATC.csv": (ATC, r"^[A-Z][0-9]{2}(?:[A-Z](?:[A-Z](?:[0-9]{2})?)?)?$"),
}
# Columns of these tables that tell of the patient, as loose headers.
_NO_CODES = {
    "siteid", "bdsppatientid", "bidsfolder", "sex", "sexdsc", "visitcount", "ageatvisitavg",
    "raceandethnicity", "raceandethnicitydsc",
}  # fmt: skip


def read_events(records: Records | None) -> pl.DataFrame:
    """Events of a data set's records: `subject_id, time, code, numeric_value`.

    HEEDB's codes are undated, "ever": their time is null. Raises OpenclefError for records that
    cannot serve.
    """
    if records is None:
        return no_events()
    if records.kind == "meds":
        (folder,) = records.paths
        return read_meds(folder)
    frames = [no_events(), *(_read_heedb(path) for path in records.paths)]
    return _sorted(pl.concat(frames).unique())


def _sorted(events: pl.DataFrame) -> pl.DataFrame:
    return events.sort("subject_id", "time", "code", nulls_last=False)


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
    return _sorted(pl.concat(frames))


def _read_heedb(path: Path) -> pl.DataFrame:
    """Codes of one HEEDB table: a row a patient, cells of codes, a column a chapter or group.

    A column without any code (counts, names) is passed over. Raises OpenclefError if none has
    codes, a cell holds codes and something else, or a row has no patient.
    """
    system, pattern = _HEEDB_TABLES[path.name]
    table = bdsp.read(path)
    patients = [visit.patient for visit in bdsp.read_visits(table, path)]
    n_blank = patients.count("")
    if n_blank:
        raise OpenclefError(f"{path}: {n_blank} rows have no BDSPPatientID")
    # A name that is no number is joined to nothing (`bdsp.subject_numbers`) and drops out here.
    subjects = pl.Series("subject_id", patients).cast(pl.Int64, strict=False)
    columns = [name for name in table.columns if bdsp.loose(name) not in _NO_CODES]
    words = (
        table.select(subjects, *columns)
        .unpivot(columns, index="subject_id", variable_name="column", value_name="code")
        .with_columns(pl.col("code").str.to_uppercase().str.extract_all(r"[^\s,;|]+"))
        .explode("code")
        .drop_nulls()
        .filter(~pl.col("code").is_in(["0", "0.0"]))  # a count of none
        .with_columns(is_code=pl.col("code").str.contains(pattern))
    )
    if words.height and not words["is_code"].any():
        raise OpenclefError(
            f"{path}: no column holds {system} codes; columns: {', '.join(table.columns)}"
        )
    words = words.filter(pl.col("is_code").any().over("column"))
    wrong = words.filter(~pl.col("is_code"))
    if wrong.height:
        column, word = wrong.select("column", "code").row(0)
        raise OpenclefError(f"{path}: column {column!r} holds {word!r}, not an {system} code")
    code = pl.col("code")
    if system == ICD10CM:  # some releases leave the point out
        code = code.str.replace(r"^(\w{3})(\w+)$", "$1.$2")
    known = (
        subjects.drop_nulls().to_frame().select("subject_id", code=pl.lit(f"{_RECORDED}//{system}"))
    )
    had = words.select("subject_id", code=pl.lit(meds_code("", system=system)) + code)
    return pl.concat([known, had]).select(
        pl.col(name) if name in ("subject_id", "code") else pl.lit(None, kind).alias(name)
        for name, kind in _COLUMNS.items()
    )


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
    coded = events.filter(_is_coded())
    grouped = coded.group_by("subject_id").agg(pl.col("code").unique().sort())
    return {row["subject_id"]: row["code"] for row in grouped.iter_rows(named=True)}


def recorded_systems(events: pl.DataFrame) -> dict[int, frozenset[str]]:
    """Code systems that each patient's record would show a code of; no entry: no record.

    HEEDB lists its patients, with codes or without. A MEDS record with any diagnosis or
    medication is a record of both.
    """
    listed = events.filter(pl.col("code").str.starts_with(f"{_RECORDED}//"))
    told = listed.group_by("subject_id").agg(pl.col("code").str.split("//").list.last().unique())
    systems = {subject: frozenset(names) for subject, names in told.iter_rows()}
    coded = events.filter(_is_coded())["subject_id"].unique()
    return {subject: frozenset((ICD10CM, ATC)) for subject in coded} | systems


def _is_coded() -> pl.Expr:
    return pl.any_horizontal(pl.col("code").str.starts_with(f"{s}//") for s in (ICD10CM, ATC))


def record_labels(codes: Collection[str], systems: Collection[str]) -> dict[str, tuple[str, int]]:
    """Disease and medication labels of a patient; -1 where the record does not look for them.

    codes, systems: the patient's entries of `patient_codes` and `recorded_systems`, empty if
    there is none.
    """
    return {
        phenotype.name: (
            phenotype.category,
            int(label(codes, phenotype)) if phenotype.system in systems else -1,
        )
        for phenotype in (*DISEASES, *MEDICATIONS)
    }
