from datetime import datetime, timedelta

import polars as pl

from openclef.cohort.ehr import no_events, write_meds


def test_a_birth_that_tells_an_age_above_89_loses_its_date(tmp_path):
    rows = [
        (1, datetime(1920, 1, 1), "MEDS_BIRTH"),
        (1, datetime(2020, 1, 1), "EEG//ROUTINE"),
        (2, datetime(1980, 1, 1), "MEDS_BIRTH"),
        (2, datetime(2020, 1, 1), "EEG//ROUTINE"),
    ]
    events = pl.DataFrame([(*row, None) for row in rows], schema=no_events().schema, orient="row")
    shifts = {1: -timedelta(days=10), 2: -timedelta(days=20)}
    splits = {1: "train", 2: "held_out"}
    write_meds(events, tmp_path, splits=splits, shifts=shifts, undatable=set())
    births = pl.read_parquet(tmp_path / "data" / "**" / "*.parquet").filter(
        pl.col("code") == "MEDS_BIRTH"
    )
    times = dict(births.select("subject_id", "time").iter_rows())
    assert times == {1: None, 2: datetime(1979, 12, 12)}
