"""What the archives of the Brain Data Science Platform share (HEEDB, HSP, Challenge 2026).

Their tables name a visit by `SiteID`, `BDSPPatientID`, `BidsFolder` = `sub-{site}{patient}` and
`SessionID`; spelling, columns and completeness differ by site and release, so headers are compared
without case, spaces and signs, and what one column leaves blank is taken from another.
BDSPPatientID is one number for one person at all sites (and OMOP's person_id): it is the
subject_id here, so that a person seen at two sites never lies in two splits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from openclef.cohort.layouts.tables import read_table
from openclef.cohort.layouts.tree import Tree
from openclef.errors import OpenclefError

_FOLDER = r"^(?:sub-)?([A-Z]\d{4})(\w+)$"
_DAYS_A_YEAR = 365.2425
_UNKNOWN = ("unknown", "unavailable", "u")


@dataclass(frozen=True, slots=True)
class Visit:
    """One row of a table. key: (folder without `sub-`, session) as `visit_key` makes it."""

    key: tuple[str, str]
    patient: str
    site: str | None = None
    age: float | None = None
    sex: str | None = None
    race: str | None = None
    service: str | None = None
    report: str | None = None


def loose(header: str) -> str:
    """A header without case, spaces and signs: `BDSP_patient_id` -> `bdsppatientid`."""
    return re.sub(r"[^a-z0-9]", "", header.lower())


def read(path: Path, *, needs: Sequence[str] = ()) -> pl.DataFrame:
    """Read one of the platform's CSV tables as text.

    Raises OpenclefError if it has no column that tells the patient, or lacks one of
    the loose headers in `needs`.
    """
    table = read_table(path, ",")
    headers = {loose(header) for header in table.columns}
    for needed in (("bdsppatientid", "bidsfolder"), *((need,) for need in needs)):
        if headers.isdisjoint(needed):
            raise OpenclefError(
                f"{path}: no column {' or '.join(needed)}, in any spelling; "
                f"columns: {', '.join(table.columns)}"
            )
    return table


def column(table: pl.DataFrame, *names: str) -> pl.Expr:
    """The first value, row by row, of the columns whose loose headers are `names`, in this order.

    Null where the table has none of them.
    """
    found = [pl.col(c) for name in names for c in table.columns if loose(c) == name]
    return pl.coalesce(found) if found else pl.lit(None, pl.String)


def visit_key(folder: str, session: str) -> tuple[str, str]:
    """Key of a visit from the names of its folders: `sub-S00011`, `ses-02` -> `S00011`, `2`."""
    bare = session.removeprefix("ses-").removesuffix(".0")
    return folder.removeprefix("sub-"), bare.lstrip("0") or bare


def split_folder(folder: str) -> tuple[str | None, str]:
    """Site and patient of `sub-{site}{patient}`; all is the patient if there is no site in it."""
    found = re.match(_FOLDER, folder)
    site, patient = found.groups() if found else (None, folder.removeprefix("sub-"))
    return site, bare_number(patient)


def bare_number(patient: str) -> str:
    """A number without leading zeros: `00123` and `123` are one patient."""
    return str(int(patient)) if patient.isdecimal() else patient


def subject_numbers(patients: Iterable[str]) -> dict[str, int]:
    """BDSPPatientID as a number; what is no number gets a negative one, met by no record."""
    names = sorted(set(patients))
    rest = [name for name in names if not name.isdecimal()]
    return {name: int(name) for name in names if name.isdecimal()} | {
        name: -number for number, name in enumerate(rest, start=1)
    }


def newest(tree: Tree, pattern: re.Pattern[str]) -> dict[str, Path]:
    """Of each `series` of dated tables the newest; `pattern` has the groups series and date."""
    best: dict[str, tuple[str, str]] = {}
    for path, found in tree.match(pattern):
        date = "".join(part.zfill(2) for part in re.findall(r"\d+", found["date"]))
        best[found["series"]] = max(best.get(found["series"], ("", "")), (date, path))
    return {series: tree.root / path for series, (_, path) in sorted(best.items())}


def read_visits(table: pl.DataFrame, where: Path, *, site: str | None = None) -> list[Visit]:
    """The visits of a table, row by row, a blank field filled from the others where it can be.

    `site`: of all rows that do not tell theirs. Age in years is AgeAtVisit, or AgeInDaysAtVisit,
    or the time from DateOfBirth to the recording. A row that tells no patient and no folder has
    an empty key.

    Raises
    ------
    OpenclefError
        A BidsFolder is not `sub-{site}{patient}`.
    """
    folder = column(table, "bidsfolder")
    wrong = table.select(n=pl.arg_where(~folder.str.contains(_FOLDER)))["n"]
    if len(wrong):
        raise OpenclefError(
            f"{where}: BidsFolder in {len(wrong)} rows, the first in line {wrong[0] + 2}, is not "
            "sub-{site}{patient} as in sub-S0001123"
        )

    def years(*names: str) -> pl.Expr:
        return column(table, *names).cast(pl.Float64, strict=False)

    def day(*names: str) -> pl.Expr:
        return column(table, *names).str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)

    told_site = pl.coalesce(column(table, "siteid"), folder.str.extract(_FOLDER, 1), pl.lit(site))
    patient = pl.coalesce(
        column(table, "bdsppatientid").str.strip_suffix(".0"), folder.str.extract(_FOLDER, 2)
    )
    lived = day("starttime", "startdatetime", "starttimeeeg") - day("dateofbirth")
    race = column(table, "raceandethnicitydsc", "raceandethnicity", "race")
    rows = table.select(
        folder=pl.coalesce(folder, pl.concat_str(told_site, patient)),
        session=column(table, "sessionid"),
        patient=patient,
        site=told_site,
        age=pl.coalesce(
            years("ageatvisit", "age", "ageatvisitavg"),
            years("ageindaysatvisit") / _DAYS_A_YEAR,
            lived.dt.total_days() / _DAYS_A_YEAR,
        ),
        sex=column(table, "sexdsc", "sex"),
        race=pl.when(~race.str.to_lowercase().is_in(_UNKNOWN)).then(race.str.to_uppercase()),
        service=column(table, "servicename", "servicenameeeg"),
        report=column(table, "deidentifiednamereports", "deidentifiedname"),
    )
    return [
        Visit(visit_key(folder or "", session or ""), bare_number(patient or ""), *rest)
        for folder, session, patient, *rest in rows.iter_rows()
    ]
