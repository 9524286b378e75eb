"""What the table of causes says is in the files: shown from the files alone, without the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.signal import welch

from openclef.benchmark.matching import Matcher, MatchingConfig
from openclef.benchmark.statistics import auroc
from openclef.benchmark.tasks import Task
from openclef.clinical.phenotypes import asserted
from openclef.signal import read_recording
from openclef.simulate import SimulationConfig, make_recording, simulate
from openclef.simulate.parameters import load_hospital
from openclef.types import CHANNELS
from openclef.workers import worker_pool

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONFIG = SimulationConfig(n_patients=1000, seed=21, n_sites=4, shortest_s=40, longest_s=40)
NULLS = {
    name: cause
    for table in (
        load_hospital(CONFIG.hospital).diseases,
        load_hospital(CONFIG.hospital).medications,
    )
    for name, cause in table.items()
    if cause.null
}
DEMENTIAS = ("alzheimer_disease", "dementia", "vascular_dementia", "lewy_body_dementia")
FEATURES = ("delta", "theta", "beta", "rhythm_hz")
LEFT = [row for row, name in enumerate(CHANNELS) if name in ("T3", "T5", "C3", "F3", "F7", "P3")]
RIGHT = [row for row, name in enumerate(CHANNELS) if name in ("T4", "T6", "C4", "F4", "F8", "P4")]


def measure(root: Path, path: Path) -> dict[str, float]:
    """Log power of some bands, and the frequency of the posterior rhythm, of one recording: made
    here, since most patients' further sessions are never looked at.
    """
    made = make_recording(root, path.as_posix())
    recording = read_recording(made)
    made.unlink()
    rows = [recording.ch_names.index(name) for name in CHANNELS]
    signal_CS = recording.signal_uv[rows]
    freqs_hz, psd_CF = welch(signal_CS, recording.sfreq_hz, nperseg=int(4 * recording.sfreq_hz))
    log_CF = np.log(psd_CF + 1e-3)

    def level(low_hz: float, high_hz: float, channels: list[int] | slice = slice(None)) -> float:
        inside = (freqs_hz >= low_hz) & (freqs_hz < high_hz)
        return float(np.median(log_CF[channels][:, inside].mean(axis=1)))

    back = [CHANNELS.index(name) for name in ("O1", "O2", "P3", "P4", "Pz")]
    # The peak that stands out of the line between 4 and 14 Hz.
    inside = (freqs_hz >= 5) & (freqs_hz <= 13)
    bump_F = np.exp(log_CF[back].mean(axis=0)[inside]) * freqs_hz[inside] ** 1.5
    weight_F = bump_F**2
    return {
        "delta": level(1, 4), "theta": level(4, 7.5), "beta": level(15, 28),
        "side": level(1, 4, LEFT) - level(1, 4, RIGHT),
        "rhythm_hz": float((weight_F * freqs_hz[inside]).sum() / weight_F.sum()),
        "amplifier": level(45, 55) - level(25, 30),
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Written:
    """One row a first session of a patient with a record."""

    table: pl.DataFrame
    codes: dict[int, set[str]]

    def has(self, *phenotypes: str) -> Bools:
        return np.array(
            [
                any(asserted(code) in phenotypes for code in self.codes[subject])
                for subject in self.table["subject_id"]
            ]
        )

    def effect(self, feature: str, exposed: Bools) -> tuple[float, float]:
        """Adjusted difference and its t value, by least squares on age, sex, site and setting."""
        age = self.table["age"].to_numpy()
        columns = [exposed, np.ones(len(age)), age, age**2, np.clip(age - 60, 0, None)]
        for name in ("sex", "site", "setting"):
            columns += [self.table[name].to_numpy() == level for level in self.levels(name)[1:]]
        x_ND = np.column_stack(columns).astype(float)
        y_N = self.table[feature].to_numpy()
        beta, residual, *_ = np.linalg.lstsq(x_ND, y_N, rcond=None)
        variance = residual[0] / (len(y_N) - x_ND.shape[1]) * np.linalg.inv(x_ND.T @ x_ND)[0, 0]
        return float(beta[0]), float(beta[0] / np.sqrt(variance))

    def levels(self, name: str) -> list[str]:
        return self.table[name].unique().sort().to_list()

    def matched(self, exposed: Bools) -> tuple[Bools, Bools]:
        """Cases and controls that the benchmark would compare."""
        task = Task("exposed", "disease", exposed.astype(np.int8))
        matcher = Matcher(task, sessions=self.table, config=MatchingConfig())
        labels = matcher.match(np.ones(len(exposed), bool), rng=np.random.default_rng(0))
        return labels == 1, labels == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("causes") / "hospital"
    simulate(root, config=CONFIG, progress=False, recordings=False)
    events = pl.read_parquet(root / "meds" / "data" / "*.parquet")
    coded = events.filter(pl.col("code").str.contains("^(ICD10CM|ATC)//"))
    codes = {subject: set(part["code"]) for (subject,), part in coded.group_by("subject_id")}
    people = pl.read_csv(root / "participants.tsv", separator="\t", null_values="n/a")
    people = people.rename({"meds_subject_id": "subject_id"}).drop("age")
    visits = pl.concat(
        pl.read_csv(path, separator="\t", null_values="n/a")
        .head(1)
        .select("session_id", "setting", pl.col("age").cast(pl.Float64))
        .with_columns(participant_id=pl.lit(path.parent.name))
        for path in sorted(root.glob("sub-*/*_sessions.tsv"))
    )
    table = people.join(visits, on="participant_id").filter(pl.col("subject_id").is_in(list(codes)))
    table = table.sort("participant_id")
    paths = [
        next((root / person / visit).rglob("*_eeg.json")).relative_to(root).with_suffix(".edf")
        for person, visit in table.select("participant_id", "session_id").iter_rows()
    ]
    with worker_pool(2) as pool:
        features = list(pool.map(partial(measure, root), paths, chunksize=50))
    return Written(pl.concat([table, pl.DataFrame(features)], how="horizontal"), codes)


def test_benzodiazepines_bring_beta(written: Written) -> None:
    difference, t = written.effect("beta", written.has("benzodiazepines"))
    assert difference > 0.1
    assert t > 4


def test_dementia_slows_the_posterior_rhythm(written: Written) -> None:
    difference, t = written.effect("rhythm_hz", written.has(*DEMENTIAS))
    assert difference < -0.15
    assert t < -3


def test_stroke_slows_the_side_that_its_code_tells(written: Written) -> None:
    table = load_hospital(CONFIG.hospital).diseases["ischemic_stroke"]
    of_side = []
    for codes in (table.left_codes, table.right_codes):
        meds = {f"ICD10CM//{code}" for code in codes}
        told = np.array([bool(meds & written.codes[s]) for s in written.table["subject_id"]])
        assert told.sum() >= 15
        of_side.append(written.effect("side", told))
    (left, t_left), (right, t_right) = of_side
    assert left > 0.05 > -0.05 > right
    assert t_left > 2
    assert t_right < -2


def test_no_edge_no_effect(written: Written) -> None:
    exposures = [written.has(name) for name in NULLS]
    t_values = np.array(
        [
            written.effect(feature, exposed)[1]
            for exposed in exposures
            if exposed.sum() >= 15
            for feature in ("delta", "theta", "beta", "side", "rhythm_hz")
        ]
    )
    assert len(t_values) > 100
    assert 0.8 < t_values.std() < 1.25
    assert abs(t_values.mean()) < 0.25
    assert np.abs(t_values).max() < 4.2


def test_matching_removes_the_confounding_by_age(written: Written) -> None:
    """Diseases of old age that leave no trace make an EEG look old until controls are matched."""
    exposed = written.has(*(name for name, cause in NULLS.items() if cause.per_decade >= 0.2))
    age = written.table["age"].to_numpy()
    assert age[exposed].mean() > age[~exposed].mean() + 3
    x_ND = written.table.select(FEATURES).to_numpy()
    x_ND = np.column_stack([x_ND, np.ones(len(age))])
    eeg_age = x_ND @ np.linalg.lstsq(x_ND, age, rcond=None)[0]

    def difference(case: Bools, control: Bools) -> tuple[float, float]:
        a, b = eeg_age[case], eeg_age[control]
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        return float(a.mean() - b.mean()), float((a.mean() - b.mean()) / error)

    crude, t_crude = difference(exposed, ~exposed)
    fair, t_fair = difference(*written.matched(exposed))
    assert t_crude > 2
    assert abs(fair) < 0.75 * crude
    assert abs(t_fair) < 2


def test_the_amplifier_is_a_shortcut_until_controls_are_matched(written: Written) -> None:
    severe = [n for n, d in load_hospital(CONFIG.hospital).diseases.items() if d.severe]
    amplifier = -written.table["amplifier"].to_numpy()
    site = (written.table["site"] == "S0002").to_numpy()
    assert auroc(site.astype(np.int8), scores=amplifier) > 0.9
    exposed = written.has(*severe)
    crude = auroc(exposed.astype(np.int8), scores=amplifier)
    case, control = written.matched(exposed)
    used = case | control
    fair = auroc(case[used].astype(np.int8), scores=amplifier[used])
    assert crude > 0.56
    assert abs(fair - 0.5) < 0.5 * (crude - 0.5)
