import shutil
from datetime import datetime, timedelta

import polars as pl
import pytest
from trees import HEEDB_ATC, HEEDB_ICD10

from openclef.clinical import DISEASES, MEDICATIONS
from openclef.cohort.ehr import (
    no_events,
    patient_codes,
    read_events,
    record_labels,
    recorded_systems,
    write_meds,
)
from openclef.cohort.layouts import Records, read_source
from openclef.errors import OpenclefError


@pytest.fixture(scope="module")
def heedb_events(sources):
    return read_events(sources["heedb"].records)


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


def test_heedb_codes_are_undated_and_spelled_as_meds_has_them(heedb_events):
    assert heedb_events.schema == no_events().schema
    assert heedb_events["time"].null_count() == heedb_events.height
    assert patient_codes(heedb_events) == {
        1: ["ATC//N03AX14", "ATC//N05BA01", "ICD10CM//G40.209", "ICD10CM//G40.909"],
        4: ["ICD10CM//I63.9"],
        5: ["ICD10CM//G40.3"],
    }


def test_listed_without_a_code_is_never_and_not_listed_is_unknown(heedb_events):
    codes, systems = patient_codes(heedb_events), recorded_systems(heedb_events)
    assert systems == {
        1: {"ICD10CM", "ATC"}, 2: {"ICD10CM"}, 3: {"ATC"}, 4: {"ICD10CM"}, 5: {"ICD10CM"},
    }  # fmt: skip
    labels = {
        patient: record_labels(codes.get(patient, ()), systems.get(patient, ()))
        for patient in range(1, 7)
    }
    assert [labels[i]["epilepsy_generalized"] for i in range(1, 7)] == [
        ("disease", value) for value in (0, 0, -1, 0, 1, -1)
    ]
    assert [labels[i]["levetiracetam"] for i in range(1, 7)] == [
        ("medication", value) for value in (1, -1, 0, -1, -1, -1)
    ]


def test_the_exported_record_still_tells_never_from_unknown(heedb_events, tmp_path):
    splits = dict.fromkeys(range(1, 7), "train")
    shifts = dict.fromkeys(splits, timedelta(days=-3))
    write_meds(heedb_events, tmp_path, splits=splits, shifts=shifts, undatable=set())
    again = read_events(Records("meds", (tmp_path,), ""))
    assert recorded_systems(again) == recorded_systems(heedb_events)
    assert patient_codes(again) == patient_codes(heedb_events)


def test_a_meds_record_of_any_code_is_a_record_of_diagnoses_and_drugs(sources):
    events = read_events(sources["bids"].records)
    assert events["time"].null_count() == 0
    codes, systems = patient_codes(events), recorded_systems(events)
    assert codes == {100: ["ICD10CM//G40.909"], 101: ["ATC//N03AX14"]}
    assert set(systems) == {100, 101}
    drugs = {drug.name for drug in MEDICATIONS}
    values = record_labels(codes[100], systems[100])
    assert {value for name, (_, value) in values.items() if name in drugs} == {0}
    unknown = record_labels((), ())
    assert set(unknown) == drugs | {disease.name for disease in DISEASES}
    assert {value for _, value in unknown.values()} == {-1}


def test_no_records_no_events(sources):
    assert sources["tuab"].records is None
    assert read_events(None).is_empty()


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        (HEEDB_ICD10, "I63.9", "stroke", r"'Cerebrovascular Diseases' holds 'STROKE', not an ICD"),
        (HEEDB_ATC, "N05BA01", "N5BA01", r"holds 'N5BA01', not an ATC code"),
        (HEEDB_ATC, "N03AX14 N05BA01", "yes", "no column holds ATC codes"),
        (HEEDB_ICD10, "S0001,2,", "S0001,,", "1 rows have no BDSPPatientID"),
        (HEEDB_ICD10, "BDSPPatientID", "Person", "no column bdsppatientid or bidsfolder"),
    ],
)
def test_a_heedb_code_table_that_cannot_serve_is_refused(trees, tmp_path, table, old, new, message):
    root = shutil.copytree(trees["heedb"], tmp_path / "heedb")
    text = (root / table).read_text()
    if "stroke" in new:  # a column of words alone is passed over: it must hold a code too
        text = text.replace("G40.3,,", "G40.3,G45.9,")
    (root / table).write_text(text.replace(old, new))
    with pytest.raises(OpenclefError, match=message):
        read_events(read_source(root).records)
