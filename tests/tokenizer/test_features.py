"""Continuous companions of tokens: the whitener on data with a known answer, and the stage."""

import hashlib
import json

import numpy as np
import polars as pl
import pytest
import torch
import zarr

from openclef import artefact
from openclef.cohort import shards, store
from openclef.cohort.store import Cohort
from openclef.cohort.tables import WINDOWS
from openclef.encoder.load import check_whitener
from openclef.encoder.transformer import EncoderConfig
from openclef.errors import ArtefactError, OpenclefError
from openclef.tokenizer import features, tokens
from openclef.tokenizer.features import FeaturesConfig, FeatureTable, extract_features
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.tokens import tokenize_cohort
from openclef.tokenizer.train import stack
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan, scale
from openclef.tokenizer.whitener import Whitener, fit_whitener, load_whitener, save_whitener
from openclef.training import checkpoint
from openclef.types import CHANNELS, LEFT

N_FREQS = 8
SPLIT_OF = {"S1": "train", "S2": "held_out", "S3": "train"}
SESSIONS = ["S1"] * 3 + ["S2"] * 3 + ["S3"] * 3
FAILED = 4  # its spectrogram is not what the table says


def config_of(regions="all", n_frames=1280):
    return TokenizerConfig(
        n_freqs=N_FREQS, n_frames=n_frames, regions=regions, strides=((2, 5), (2, 4)),
        widths=(4, 4), n_blocks=1, attention=False, quantiser=EmaConfig(n_codes=8, code_dim=4),
    )  # fmt: skip


# --- the whitener ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture():
    """Loud noise of unequal size, and a faint level of each window in one direction of row 0.

    Returns (batch, level of each window, direction `[19, 4]`, deviations of the noise `[19, 8]`).
    """
    rng = np.random.default_rng(0)
    deviations = rng.uniform(1, 6, (19, 8))
    direction = rng.normal(size=(19, 4))
    level = rng.normal(size=60) * 0.3
    power_db = deviations[..., None] * rng.normal(size=(60, 19, 8, 800))
    power_db[:, :, :4] += (level[:, None, None] * direction)[..., None]
    power_db += rng.normal(size=(19, 8, 1))  # a mean spectrum
    batch = {
        "power_db": torch.from_numpy(power_db.astype(np.float32)),
        "channel_mask": torch.zeros(60, 19, dtype=torch.bool),
        "time_mask": torch.zeros(60, 800, dtype=torch.bool),
    }
    return batch, level, direction, deviations


@pytest.fixture(scope="module")
def fitted(mixture):
    return fit_whitener(config_of(n_frames=800), lambda: parts(mixture[0]), patch_dim=6)


def parts(batch):
    for start in range(0, 60, 20):
        yield {name: value[start : start + 20] for name, value in batch.items()}


def outputs(whitener, batch):
    return whitener(scale(batch["power_db"]), batch["channel_mask"], batch["time_mask"])


def test_outputs_have_the_identity_as_covariance(mixture, fitted):
    found = outputs(fitted, mixture[0])
    assert found.shape == (60, 1, 2, 40, 6)
    for row in range(2):
        covariance = np.cov(found[:, 0, row].reshape(-1, 6).numpy().T, bias=True)
        np.testing.assert_allclose(covariance, np.eye(6), atol=2e-3)


def test_the_first_direction_is_the_faint_lasting_one(mixture, fitted):
    _, level, direction, deviations = mixture
    first = outputs(fitted, mixture[0])[:, 0, 0, :, 0].mean(1).numpy()
    assert abs(np.corrcoef(first, level)[0, 1]) > 0.99
    # Least noise for the level is along N^-1 u: its signal-to-noise is s^2 u' N^-1 u, and the mean
    # over 20 frames has a twentieth of their variance.
    noise = deviations[:, :4] ** 2 / 20
    expected = level.var() * (direction**2 / noise).sum()
    assert float(fitted.snr[0, 0, 0]) == pytest.approx(expected, rel=0.15)
    assert fitted.snr[0, 0, 1] < 0.5  # the rest is noise
    assert fitted.snr[0, 1, 0] < 0.5
    assert (fitted.snr.diff(dim=-1) <= 0).all()


def test_a_missing_channel_counts_as_its_mean(mixture, fitted):
    batch = {name: value[:4].clone() for name, value in mixture[0].items()}
    batch["channel_mask"][:, [2, 7]] = True
    found = outputs(fitted, batch)
    mean = fitted.get_buffer("mean_0").view(2, 19, 4).transpose(0, 1).reshape(19, 8)
    filled = batch["power_db"].clone()
    filled[:, [2, 7]] = 40 * mean[[2, 7], :, None]
    batch["channel_mask"][:] = False
    torch.testing.assert_close(
        found, outputs(fitted, {**batch, "power_db": filled}), rtol=0, atol=0.02
    )


def test_hidden_frames_are_left_out_and_hidden_tokens_are_zero(mixture, fitted):
    batch = {name: value[:4].clone() for name, value in mixture[0].items()}
    batch["time_mask"][:, 500:] = True
    batch["time_mask"][:, 3:8] = True  # a quarter of the first token
    found = outputs(fitted, batch)
    assert not found[..., 25:, :].any()
    assert found[..., :25, :].any()
    other = batch["power_db"].masked_fill(batch["time_mask"][:, None, None], float("nan"))
    torch.testing.assert_close(found, outputs(fitted, {**batch, "power_db": other}))


def test_regions_see_their_own_channels_only(mixture):
    config = config_of("quadrants", n_frames=800)
    whitener = fit_whitener(config, lambda: parts(mixture[0]), patch_dim=6)
    batch = {name: value[:4].clone() for name, value in mixture[0].items()}
    before = outputs(whitener, batch)
    assert before.shape == (4, 4, 2, 40, 6)
    batch["power_db"][:, CHANNELS.index("O2")] += 3
    changed = (outputs(whitener, batch) != before).flatten(2).any(-1)
    assert changed.tolist() == [[False, False, False, True]] * 4
    batch["channel_mask"][:, whitener.members[1]] = True
    assert not outputs(whitener, batch)[:, 1].any()


def test_tokens_of_differences_see_what_is_unlike_only(mixture):
    config = config_of("mid_side", n_frames=800)
    whitener = fit_whitener(config, lambda: parts(mixture[0]), patch_dim=6)
    batch = {name: value[:4].clone() for name, value in mixture[0].items()}
    before = outputs(whitener, batch)
    assert before.shape == (4, 2, 2, 40, 6)
    batch["power_db"] += 0.5
    after = outputs(whitener, batch)
    torch.testing.assert_close(after[:, 1], before[:, 1], rtol=0, atol=0.02)
    assert (after[:, 0] - before[:, 0]).abs().max() > 0.1
    batch["channel_mask"][:, [CHANNELS.index(name) for name in LEFT]] = True
    assert not outputs(whitener, batch)[:, 1].any()  # no pair is left
    assert outputs(whitener, batch)[:, 0].any()


def test_a_channel_that_no_recording_has_does_no_harm(mixture):
    batch = {name: value.clone() for name, value in mixture[0].items()}
    batch["channel_mask"][:, :8] = True
    whitener = fit_whitener(config_of(n_frames=800), lambda: parts(batch), patch_dim=60)
    found = outputs(whitener, batch)
    assert found.isfinite().all()
    assert not found[..., 44:].any()  # 11 channels of 4 bins vary
    np.testing.assert_allclose(found[..., :44].square().mean((0, 1, 2, 3)), 1, atol=0.02)


def test_a_few_windows_are_enough_to_be_finite(mixture):
    """With fewer tokens than numbers the noise has directions of no variance."""
    few = {name: value[:1, ..., :400] for name, value in mixture[0].items()}
    few["channel_mask"] = mixture[0]["channel_mask"][:1]
    whitener = fit_whitener(config_of(n_frames=400), lambda: [few], patch_dim=40)
    assert outputs(whitener, few).isfinite().all()


def test_more_directions_than_numbers_are_refused():
    with pytest.raises(OpenclefError, match="100 directions of a patch of 76 numbers"):
        Whitener(config_of(), 100)


def test_a_saved_whitener_is_the_same(fitted, mixture, tmp_path):
    save_whitener(fitted, tmp_path / "w.safetensors")
    again = load_whitener(tmp_path / "w.safetensors", config_of(n_frames=800))
    assert torch.equal(outputs(again, mixture[0]), outputs(fitted, mixture[0]))
    with pytest.raises(ArtefactError, match="tensors do not match"):
        load_whitener(tmp_path / "w.safetensors", config_of("quadrants", n_frames=800))


# --- the stage ------------------------------------------------------------------------------------


def write_cohort(folder):
    """Nine windows of three sessions, with missing channels and ends; one is not as stored."""
    stage = artefact.begin(folder, kind="cohort", config={}, inputs={})
    sessions = {"session_id": list(SPLIT_OF), "split": list(SPLIT_OF.values())}
    pl.DataFrame(sessions).write_parquet(folder / "sessions.parquet")
    shards.create_array(folder / "spectrograms", n_rows=len(SESSIONS))
    array = zarr.open_array(folder / "spectrograms", mode="r+")
    rows = []
    for row, session in enumerate(SESSIONS):
        rng = np.random.default_rng(row)
        power_db = rng.normal(size=shards.ARRAY_SHAPE).astype(np.float16)
        channel_mask, time_mask = rng.random(19) < 0.2, np.arange(1280) >= 1280 - 150 * row
        power_db[channel_mask] = 0
        power_db[..., time_mask] = 0
        array[row] = power_db
        stored = hashlib.sha256(power_db.data).hexdigest()[:16]
        rows.append(
            {
                "row": row, "session_id": session, "window": row % 3, "start_s": 1280.0 * (row % 3),
                "channel_mask": channel_mask.tolist(), "time_mask": time_mask.tolist(),
                "hash": "0" * 16 if row == FAILED else stored,
            }
        )  # fmt: skip
    pl.DataFrame(rows, schema=WINDOWS).write_parquet(folder / "windows.parquet")
    stage.finish(["sessions.parquet", "windows.parquet"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(cohort, tokenizer, its folder, tokens)."""
    root = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    tokenizer = Vqgan(config_of()).eval()
    artefact.begin(root / "tokenizer", kind="tokenizer", config={}, inputs={}).finish([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "N_FREQS", N_FREQS)
        patch.setattr(shards, "ARRAY_SHAPE", (19, N_FREQS, 1280))
        patch.setattr(shards, "SHARD_WINDOWS", 4)
        for module in (tokens, features):
            patch.setattr(module, "load_tokenizer", lambda _: tokenizer)
        patch.setattr(features, "BATCH_SIZE", 2)
        patch.setattr(features, "_FLUSH_BATCHES", 1)
        write_cohort(root / "cohort")
        cohort = Cohort(root / "cohort")
        tokenize_cohort(cohort, root / "tokenizer", root / "tokens", progress=False)
        yield cohort, tokenizer, root / "tokenizer", TokenTable(root / "tokens", cohort)


CONFIG = FeaturesConfig(patch_dim=5)


def extract(made, out):
    cohort, _, folder, table = made
    return extract_features(cohort, folder, table, out, config=CONFIG)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "features"
    assert extract(made, out).is_complete
    return out


def test_rows_are_those_of_the_token_table(made, whole):
    cohort, tokenizer, _, table = made
    found = FeatureTable(whole)
    assert found.latents.shape == (8, 128, 4)  # without the one that failed
    assert found.patches.shape == (8, 128, 5)
    assert found.latents.dtype == found.patches.dtype == np.float16
    whitener = load_whitener(found.whitener_path, tokenizer.config)
    kept = [row for row in range(9) if row != FAILED]
    for i, row in enumerate(kept):
        batch = stack([cohort.spectrogram(row)])
        x, *masks = scale(batch["power_db"]), batch["channel_mask"], batch["time_mask"]
        with torch.no_grad():
            encoded = tokenizer.encode(x, *masks)
        ids = tokenizer.quantiser.encode(encoded.latent, encoded.visible).flatten().numpy()
        hidden = table.hidden(np.array([i]))[0]
        latent = encoded.latent.reshape(128, 4).numpy()
        np.testing.assert_allclose(found.latents[i][~hidden], latent[~hidden], rtol=2e-3, atol=1e-3)
        assert np.array_equal(table.ids[i][~hidden], ids[~hidden])
        assert not found.latents[i][hidden].any()
        assert not found.patches[i][hidden].any()
        expected = whitener(x, *masks).reshape(128, 5).numpy()
        np.testing.assert_allclose(found.patches[i], expected, rtol=2e-3, atol=1e-3)


def test_the_whitener_has_seen_train_patients_only(made, whole):
    cohort, tokenizer, _, _ = made
    of_train = [0, 1, 2, 6, 7, 8]
    expected = fit_whitener(
        tokenizer.config,
        lambda: [stack([cohort.spectrogram(row)]) for row in of_train],
        patch_dim=5,
    )
    found = load_whitener(FeatureTable(whole).whitener_path, tokenizer.config)
    torch.testing.assert_close(found.snr, expected.snr, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.get_buffer("mean_0"), expected.get_buffer("mean_0"))


def test_a_run_cut_short_goes_on_where_it_was(made, whole, tmp_path, monkeypatch):
    out = tmp_path / "features"
    original, seen = features._features, []

    def stop_at_third(*args):
        seen.append(args)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(features, "_features", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        extract(made, out)
    assert json.loads((out / "progress.json").read_text()) == {"n_windows": 4}
    assert extract(made, out).is_complete
    assert len(seen) == 3 + 2  # of four batches, two were done
    names = {path.name for path in whole.iterdir()}
    assert names == {path.name for path in out.iterdir()}
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_tokens_of_another_tokenizer_are_refused(made, tmp_path):
    cohort, _, _, table = made
    other = artefact.begin(tmp_path / "other", kind="tokenizer", config={"a": 1}, inputs={})
    other.finish([])
    with pytest.raises(ArtefactError, match="tokens of another tokenizer"):
        extract_features(cohort, other.folder, table, tmp_path / "features", config=CONFIG)


def test_a_full_disk_is_told_before_the_work(made, tmp_path, monkeypatch):
    def refuse(folder, needed_bytes):
        assert needed_bytes == 2 * 128 * (4 + 5) * 8
        raise ArtefactError("full")

    monkeypatch.setattr(artefact, "check_free_disk", refuse)
    with pytest.raises(ArtefactError, match="full"):
        extract(made, tmp_path / "features")


# --- a whitener that is given ---------------------------------------------------------------------


def given(made, out, whitener_folder, config=CONFIG):
    cohort, _, folder, table = made
    return extract_features(
        cohort, folder, table, out, config=config, whitener_folder=whitener_folder
    )


@pytest.fixture
def other(whole, tmp_path):
    """The features' whitener with its first direction turned round, as an encoder may have it."""
    folder = tmp_path / "encoder"
    inputs = artefact.load(whole, kind="features").inputs
    artefact.begin(folder, kind="encoder", config={}, inputs={"tokenizer": inputs["tokenizer"]})
    tensors, _ = checkpoint.load_tensors(whole / features.WHITENER)
    turned = {
        name: torch.cat([-value[..., :1], value[..., 1:]], -1) if "projection" in name else value
        for name, value in tensors.items()
    }
    checkpoint.save_tensors(folder / features.WHITENER, turned)
    return folder


def test_a_given_whitener_is_used_instead_of_fitting_one(made, whole, other, tmp_path):
    own, stage = FeatureTable(whole), given(made, tmp_path / "f", other)
    found = FeatureTable(tmp_path / "f")
    assert stage.hash != own.artefact.hash
    np.testing.assert_array_equal(found.patches[..., 0], -own.patches[..., 0])
    np.testing.assert_array_equal(found.patches[..., 1:], own.patches[..., 1:])
    np.testing.assert_array_equal(found.latents, own.latents)
    reads = EncoderConfig(inputs="codes+patches")
    check_whitener(other, reads, found)
    with pytest.raises(ArtefactError, match=r"patches of another whitener .*train features, --wh"):
        check_whitener(other, reads, own)
    check_whitener(other, EncoderConfig(inputs="codes+latents"), own)


def test_a_whitener_that_does_not_fit_is_refused(made, other, tmp_path):
    with pytest.raises(ArtefactError, match="a whitener of 5 directions; 6 were asked for"):
        given(made, tmp_path / "f", other, FeaturesConfig(patch_dim=6))
    with pytest.raises(ArtefactError, match="not there; features have a whitener"):
        given(made, tmp_path / "g", tmp_path)
    config = json.loads((other / "config.json").read_text())
    config["inputs"]["tokenizer"] = "t"
    artefact.write_json(other / "config.json", config)
    with pytest.raises(ArtefactError, match="its whitener is of another tokenizer"):
        given(made, tmp_path / "h", other)
    assert not (tmp_path / "f").exists()
    assert not (tmp_path / "g").exists()
    assert not (tmp_path / "h").exists()
