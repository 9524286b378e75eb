"""Tangent vectors against pyriemann and known answers; recordings of a small simulated hospital."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
import scipy.linalg
from pyriemann.geometry.distance import distance_riemann
from pyriemann.tangentspace import TangentSpace

from openclef import artefact
from openclef.benchmark.rivals import riemannian
from openclef.benchmark.rivals.covariances import band_covariances, covariance_path
from openclef.benchmark.rivals.handcrafted import BANDS_HZ
from openclef.benchmark.rivals.riemannian import (
    complete,
    embed_riemannian,
    fit_reference,
    tangent_vectors,
)
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.layouts import read_source
from openclef.cohort.store import Cohort
from openclef.errors import OpenclefError
from openclef.recipes.simulated import MadeOnDemand
from openclef.types import SFREQ_HZ

N_CHANS, N_BANDS = 19, len(BANDS_HZ)
N_OF_BAND = 171
CONTRAST_EC = scipy.linalg.helmert(N_CHANS)
ALL_SEEN = np.zeros(N_CHANS, bool)


class Here:
    """Works in this process; stops after so many items, as a killed run does."""

    def __init__(self, n_items=None):
        self.n_items, self.worked_on = n_items, []

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def map(self, function, items):
        for item in items:
            if len(self.worked_on) == self.n_items:
                raise KeyboardInterrupt
            self.worked_on.append(item)
            yield item, function(item)


def tone(freq_hz, amplitudes, *, n_s=64):
    """The same sine on every channel, of these amplitudes, `[C, S]`."""
    wave = np.sin(2 * np.pi * freq_hz * np.arange(round(n_s * SFREQ_HZ)) / SFREQ_HZ)
    return (np.asarray(amplitudes)[:, None] * wave).astype(np.float32)


def noise(n_chans=N_CHANS, *, n_s=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_chans, round(n_s * SFREQ_HZ))).astype(np.float32)


def random_covariances(n_windows, *, seed=0):
    """`[W, B, 19, 19]`, of contrasts, of all conditions."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n_windows, N_BANDS, N_CHANS - 1, 60))
    factor *= rng.uniform(0.5, 3, (n_windows, N_BANDS, N_CHANS - 1, 1))
    return CONTRAST_EC.T @ (factor @ factor.swapaxes(-1, -2) / 60) @ CONTRAST_EC


def none_hidden(covariance_WBCC):
    return np.zeros((len(covariance_WBCC), N_CHANS), bool)


def vectors_of(covariance_WBCC, channel_mask_WC=None):
    """Tangent vectors of some windows at their own mean."""
    mask = none_hidden(covariance_WBCC) if channel_mask_WC is None else channel_mask_WC
    reference = fit_reference(covariance_WBCC, mask, np.arange(len(mask)))
    return tangent_vectors(covariance_WBCC, mask, reference)


def visible_frames(n_s=64):
    return np.zeros(n_s, bool)


@pytest.mark.parametrize(
    ("freq_hz", "band"), [(2, "delta"), (6, "theta"), (10, "alpha"), (20, "beta")]
)
def test_a_rhythm_is_in_its_band_with_its_pattern(freq_hz, band):
    pattern = np.linspace(-2, 2, N_CHANS)
    signal = tone(freq_hz, 10 * pattern) + 0.01 * noise()
    frames = np.arange(64)
    # The ends are extended by a reflection, which breaks the phase of a sine.
    covariance = band_covariances(signal, time_mask=(frames < 8) | (frames > 56))
    at = list(BANDS_HZ).index(band)
    expected = 100 * np.outer(pattern, pattern) / 2
    np.testing.assert_allclose(covariance[at], expected, atol=0.02 * expected.max())
    others = np.delete(covariance, at, axis=0)
    assert np.trace(others, axis1=1, axis2=2).max() < 1e-4 * np.trace(expected)


def test_adjacent_bands_share_the_power_at_their_limit():
    pattern = np.linspace(-2, 2, N_CHANS)
    alone = band_covariances(tone(8, pattern), time_mask=visible_frames())
    power = np.trace(alone, axis1=1, axis2=2)
    np.testing.assert_allclose(power[1:3], 0.25 * (pattern @ pattern), rtol=0.05)


def test_a_signal_on_all_channels_changes_nothing():
    signal = 20 * noise(n_s=30)
    shared = signal + 500 * noise(1, n_s=30, seed=1)
    one, other = (band_covariances(x, time_mask=visible_frames(30)) for x in (signal, shared))
    np.testing.assert_allclose(one, other, atol=1e-4 * one.max())


def test_hidden_frames_are_not_read():
    signal = 20 * noise()
    broken = signal.copy()
    at = np.arange(signal.shape[1]) / SFREQ_HZ
    broken[:, (at > 28) & (at < 36)] += 1e4 * noise(seed=1)[:, (at > 28) & (at < 36)]
    frames = np.arange(64)
    # An edge of half a hertz rings for some seconds: the frames around go, too.
    hidden = (frames > 16) & (frames < 48)
    one, other = (band_covariances(x, time_mask=hidden) for x in (signal, broken))
    np.testing.assert_allclose(one, other, atol=0.05 * one.max())
    seen = band_covariances(broken, time_mask=visible_frames())
    assert seen.max() > 100 * one.max()


def test_bridged_electrodes_and_four_seconds_stay_regular():
    signal = 20 * noise(n_s=4)
    signal[3] = signal[4]
    covariance = band_covariances(signal, time_mask=visible_frames(4))
    eigenvalues = np.linalg.eigvalsh(CONTRAST_EC @ covariance @ CONTRAST_EC.T)
    mean = eigenvalues.mean(axis=1, keepdims=True)
    assert (eigenvalues > 0.9e-4 * mean).all()


def test_nothing_visible_and_a_flat_signal_are_unknown():
    hidden = band_covariances(noise(n_s=4), time_mask=np.ones(4, bool))
    flat = band_covariances(np.zeros((N_CHANS, 800), np.float32), time_mask=visible_frames(4))
    assert np.isnan(hidden).all()
    assert np.isnan(flat).all()


def test_vectors_are_those_of_pyriemann():
    covariances = random_covariances(12)
    ours = vectors_of(covariances)
    of_contrasts = CONTRAST_EC @ covariances @ CONTRAST_EC.T
    theirs = [TangentSpace().fit_transform(of_contrasts[:, band]) for band in range(N_BANDS)]
    assert ours.shape == (12, N_BANDS * N_OF_BAND)
    np.testing.assert_allclose(ours, np.concatenate(theirs, axis=1), atol=1e-6)


def test_a_vectors_length_is_the_distance_from_the_mean():
    covariances = random_covariances(6)
    reference = fit_reference(covariances, none_hidden(covariances), np.arange(6))
    vectors = tangent_vectors(covariances, none_hidden(covariances), reference)
    of_contrasts = CONTRAST_EC @ covariances @ CONTRAST_EC.T
    lengths = np.linalg.norm(vectors.reshape(6, N_BANDS, -1), axis=-1)
    for band in range(N_BANDS):
        distances = distance_riemann(of_contrasts[:, band], reference.mean[band])
        np.testing.assert_allclose(lengths[:, band], distances, rtol=1e-8)


def test_mixing_the_channels_turns_the_vectors_and_nothing_else():
    """Affine invariance: all angles and lengths stay."""
    covariances = random_covariances(10)
    mixing_EE = np.random.default_rng(1).normal(size=(18, 18)) + 3 * np.eye(18)
    mixing_CC = CONTRAST_EC.T @ mixing_EE @ CONTRAST_EC
    mixed = mixing_CC @ covariances @ mixing_CC.T
    before, after = (
        vectors_of(x).reshape(10, N_BANDS, -1).swapaxes(0, 1) for x in (covariances, mixed)
    )
    assert abs(before - after).max() > 0.1
    np.testing.assert_allclose(
        before @ before.swapaxes(1, 2), after @ after.swapaxes(1, 2), atol=1e-5
    )


def test_each_patient_counts_alike_in_the_mean():
    covariances = random_covariances(3)
    thrice = np.concatenate([covariances, covariances[:1], covariances[:1]])
    once = fit_reference(covariances, none_hidden(covariances), np.array([7, 8, 9]))
    often = fit_reference(thrice, none_hidden(thrice), np.array([7, 8, 9, 7, 7]))
    np.testing.assert_allclose(once.mean, often.mean, rtol=1e-6)
    np.testing.assert_allclose(once.prior, often.prior, rtol=1e-6)


def hide(covariances, channel_mask_WC):
    """What `band_covariances` of the visible channels gives: their own average taken out."""
    seen = np.full_like(covariances, np.nan)
    for window, hidden in enumerate(channel_mask_WC):
        visible = np.flatnonzero(~hidden)
        centre = np.eye(len(visible)) - 1 / len(visible)
        block = covariances[window][:, visible[:, None], visible]
        seen[window][:, visible[:, None], visible] = centre @ block @ centre
    return seen


def test_what_is_visible_is_kept_and_the_rest_filled_by_the_prior():
    covariances = random_covariances(1)
    mask = none_hidden(covariances)
    mask[0, [2, 11]] = True
    prior = np.stack([CONTRAST_EC @ c @ CONTRAST_EC.T for c in covariances[0]])
    # A session four times as strong as the prior and otherwise like it is filled in exactly.
    filled = complete(hide(4 * covariances, mask), mask, prior)
    np.testing.assert_allclose(filled[0], 4 * prior, rtol=1e-8, atol=1e-8)
    other = random_covariances(1, seed=5)
    filled = complete(hide(other, mask), mask, prior)
    back = CONTRAST_EC.T @ filled @ CONTRAST_EC
    visible = np.flatnonzero(~mask[0])
    np.testing.assert_allclose(
        hide(back, mask)[0][:, visible[:, None], visible],
        hide(other, mask)[0][:, visible[:, None], visible],
        atol=1e-8,
    )
    assert (np.linalg.eigvalsh(filled) > 0).all()


def test_filling_in_comes_nearer_than_leaving_the_prior():
    rng = np.random.default_rng(0)
    base = random_covariances(1)[0]
    signals = scipy.linalg.sqrtm(base[0]).real @ rng.normal(size=(80, N_CHANS, 400))
    truth = np.repeat((signals @ signals.swapaxes(1, 2) / 400)[:, None], N_BANDS, 1)
    truth += 1e-3 * np.eye(N_CHANS) * np.trace(base[0]) / N_CHANS
    centre = np.eye(N_CHANS) - 1 / N_CHANS
    truth = centre @ truth @ centre
    mask = none_hidden(truth)
    for window in range(40):
        mask[window, rng.choice(N_CHANS, 3, replace=False)] = True
    reference = fit_reference(hide(truth, mask), mask, np.arange(80))
    filled = complete(hide(truth, mask), mask, reference.prior)[:40]
    exact = CONTRAST_EC @ truth[:40] @ CONTRAST_EC.T
    level = np.trace(exact, axis1=-2, axis2=-1) / np.trace(reference.prior, axis1=-2, axis2=-1)
    unread = level[..., None, None] * reference.prior
    assert np.linalg.norm(filled - exact) < 0.7 * np.linalg.norm(unread - exact)


def test_channels_that_nobody_has_end_regular():
    covariances = random_covariances(8)
    mask = none_hidden(covariances)
    mask[:, 10:] = True
    vectors = vectors_of(hide(covariances, mask), mask)
    assert np.isfinite(vectors).all()


@pytest.fixture(scope="module")
def cohort(hospital, tmp_path_factory):
    folder = tmp_path_factory.mktemp("riemannian") / "cohort"
    ingest(read_source(hospital), folder, config=IngestConfig(), engine=Here(), progress=False)
    return Cohort(folder)


@pytest.fixture
def data_set(hospital, tmp_path):
    """A copy of the hospital that a test may harm."""
    return shutil.copytree(hospital, tmp_path / "hospital")


def embed(cohort, root, out, **options):
    return embed_riemannian(
        cohort, out, root=root, **{"engine": Here(), "progress": False, **options}
    )


def table(folder):
    found = pl.read_parquet(folder / "embeddings.parquet")
    return found.with_columns(pl.col("vector").cast(pl.List(pl.Float64)))


def vectors_by_session(folder):
    rows = table(folder)
    return dict(zip(rows["session_id"], np.array(rows["vector"].to_list()), strict=True))


def of_split(cohort, *splits):
    return cohort.sessions.filter(pl.col("split").is_in(splits))["session_id"].to_list()


def scramble(path):
    """The same header and size, the samples in another order."""
    raw = bytearray(path.read_bytes())
    n_header = int(raw[184:192])
    samples = np.frombuffer(raw[n_header:], "<i2").copy()
    raw[n_header:] = np.random.default_rng(0).permutation(samples).tobytes()
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def embedded(cohort, hospital, tmp_path_factory):
    return embed(cohort, hospital, tmp_path_factory.mktemp("riemannian") / "embedded").folder


def test_embeddings_artefact_outside_train(cohort, embedded):
    made = artefact.load(embedded, kind="embeddings")
    assert made.config["model"] == "riemannian"
    assert made.inputs == {"cohort": cohort.hash}
    rows = table(embedded)
    assert rows["session_id"].to_list() == of_split(cohort, "probe", "tuning", "held_out")
    assert rows["vector"].list.len().unique().to_list() == [N_BANDS * N_OF_BAND]
    vectors = np.array(rows["vector"].to_list())
    assert np.isfinite(vectors).all()
    assert vectors.std(axis=0).min() > 0
    assert pl.read_parquet(embedded / "failures.parquet").is_empty()
    assert not (embedded / "parts").exists()


def test_the_mean_of_the_probe_patients_is_the_origin(cohort, embedded):
    vectors = vectors_by_session(embedded)
    probe = cohort.sessions.filter(pl.col("split") == "probe")
    of_patients = [
        np.mean([vectors[name] for name in own["session_id"]], axis=0)
        for own in probe.partition_by("subject_id")
    ]
    np.testing.assert_allclose(np.mean(of_patients, axis=0), 0, atol=1e-5)


def test_held_out_and_tuning_patients_move_nobody_else(cohort, data_set, embedded, tmp_path):
    changed = of_split(cohort, "tuning", "held_out")
    for path in cohort.sessions.filter(pl.col("session_id").is_in(changed))["path"]:
        scramble(data_set / path)
    before = vectors_by_session(embedded)
    after = vectors_by_session(embed(cohort, data_set, tmp_path / "out").folder)
    for name in of_split(cohort, "probe"):
        np.testing.assert_array_equal(before[name], after[name])
    assert all((before[name] != after[name]).all() for name in changed)


def test_a_recording_that_cannot_be_read_is_told_and_unknown(cohort, data_set, embedded, tmp_path):
    gone, cut = of_split(cohort, "held_out", "tuning")[:2]
    paths = dict(cohort.sessions.select("session_id", "path").iter_rows())
    (data_set / paths[gone]).unlink()
    with (data_set / paths[cut]).open("r+b") as handle:
        handle.truncate(10_000)
    out = embed(cohort, data_set, tmp_path / "out").folder
    before, after = vectors_by_session(embedded), vectors_by_session(out)
    assert before.keys() == after.keys()
    for name, vector in after.items():
        expected = np.full_like(vector, np.nan) if name in (gone, cut) else before[name]
        np.testing.assert_array_equal(vector, expected)
    failures = pl.read_parquet(out / "failures.parquet")
    assert set(failures["session_id"]) == {gone, cut}
    errors = dict(failures.select("session_id", "error").iter_rows())
    assert errors[cut].startswith("RecordingError: changed since the data set was indexed")
    assert not any(str(data_set) in error for error in errors.values())


def test_a_recording_with_other_channels_than_the_cohort_is_refused(cohort, hospital, tmp_path):
    """The mask is the cohort's; covariances of other channels would be read as these."""
    first = of_split(cohort, "held_out")[0]
    jobs = []

    class Told(Here):
        def map(self, function, items):
            for item in items:
                if item.session_id == first:
                    item.channel_mask[0, 0] ^= True
                jobs.append(item.session_id)
                yield item, function(item)

    out = embed(cohort, hospital, tmp_path / "out", engine=Told()).folder
    assert first in jobs
    failures = pl.read_parquet(out / "failures.parquet")
    assert failures.rows() == [
        (first, 0, "RecordingError: other channels than when it was ingested")
    ]


def test_an_interrupted_run_reads_the_rest_only_and_ends_alike(
    cohort, hospital, embedded, tmp_path
):
    out = tmp_path / "out"
    first, second = Here(n_items=3), Here()
    with pytest.raises(KeyboardInterrupt):
        embed(cohort, hospital, out, engine=first)
    assert all(covariance_path(out, job.session_id).exists() for job in first.worked_on)
    embed(cohort, hospital, out, engine=second)
    assert sorted(job.session_id for job in first.worked_on + second.worked_on) == of_split(
        cohort, "probe", "tuning", "held_out"
    )
    for name in ("embeddings.parquet", "failures.parquet"):
        assert (out / name).read_bytes() == (embedded / name).read_bytes()
    third = Here()
    embed(cohort, hospital, out, engine=third)
    assert third.worked_on == []


def test_without_a_readable_probe_patient_nothing_is_kept(
    cohort, hospital, data_set, embedded, tmp_path
):
    for path in cohort.sessions.filter(pl.col("split") == "probe")["path"]:
        (data_set / path).unlink()
    with pytest.raises(OpenclefError, match="no probe patient can be used"):
        embed(cohort, data_set, tmp_path / "out")
    out = embed(cohort, hospital, tmp_path / "out").folder
    assert (out / "embeddings.parquet").read_bytes() == (
        embedded / "embeddings.parquet"
    ).read_bytes()


def test_a_data_set_that_is_not_there_stops_the_run(cohort, tmp_path):
    with pytest.raises(OpenclefError, match="no such folder"):
        embed(cohort, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_pyriemann_the_extra_is_named(cohort, hospital, tmp_path, monkeypatch):
    monkeypatch.setattr(riemannian.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OpenclefError, match=r"openclef\[rivals\]"):
        embed(cohort, hospital, tmp_path / "out")


def test_recordings_made_on_demand_give_the_same(cohort, data_set, embedded, tmp_path):
    for path in cohort.sessions["path"]:
        (data_set / path).unlink()
    out = embed(cohort, data_set, tmp_path / "out", engine=MadeOnDemand(Here())).folder
    assert (out / "embeddings.parquet").read_bytes() == (
        embedded / "embeddings.parquet"
    ).read_bytes()
    assert not any((data_set / path).exists() for path in cohort.sessions["path"])
