"""Every preset, made small, trains on windows of which some show next to nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openclef.recipes.recipe import changed
from openclef.recipes.tokenizers import TOKENIZERS
from openclef.tokenizer import train
from openclef.tokenizer.train import load_tokenizer, stack, train_tokenizer
from openclef.tokenizer.vqgan import scale
from openclef.types import CHANNELS, Spectrogram

N_FRAMES = 80  # which every preset's columns divide
N_STEPS = 2  # codes are there from the first or second on, the adversary plays in the second
SHOWN = [CHANNELS, CHANNELS, CHANNELS, (), ("T3",), ("Fz", "Cz", "Pz")]


def window(row):
    power_db = np.random.default_rng(row).normal(0, 10, (19, 128, N_FRAMES)).astype(np.float32)
    return Spectrogram(
        power_db=power_db,
        freqs_hz=np.arange(128, dtype=np.float32) / 4,
        times_s=np.arange(N_FRAMES, dtype=np.float32),
        channel_mask=~np.isin(CHANNELS, SHOWN[row]),
        time_mask=np.arange(N_FRAMES) >= (50 if row == 1 else N_FRAMES),
    )


# Short windows, of train patients and of tuning patients both.
COHORT = SimpleNamespace(hash="", rows=lambda split: np.arange(len(SHOWN)), spectrogram=window)


def shrunk(stage):
    model = stage.model
    quantiser = model.quantiser
    if quantiser.kind != "fsq":
        quantiser = changed(quantiser, n_codes=16)
    return changed(
        stage,
        model=changed(
            model, n_frames=N_FRAMES, widths=[8] * len(model.widths), quantiser=quantiser
        ),
        loss=changed(stage.loss, adversary_width=4),
        train=changed(stage.train, n_steps=N_STEPS, batch_size=len(SHOWN), precision="fp32"),
        crop_frames=N_FRAMES,
    )


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_preset_starts_trains_and_is_used(name, tmp_path, monkeypatch):
    started = []
    start = train.start_from_components
    monkeypatch.setattr(
        train, "start_from_components", lambda *given: (start(*given), started.append(given))
    )
    config = shrunk(TOKENIZERS[name]())
    stage = train_tokenizer(COHORT, tmp_path / "a", config=config)
    assert len(started) == (config.n_start > 0)
    rows = [row for row in stage.metrics() if row["split"] in ("train", "tuning")]
    assert [row["split"] for row in rows] == ["train"] * N_STEPS + ["tuning"]  # none left out
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert ("hinge" in rows[N_STEPS - 1]) == (config.loss.adversarial_weight > 0)

    model = load_tokenizer(tmp_path / "a")
    batch = stack([window(row) for row in range(len(SHOWN))])
    ids, hidden = model.tokenize(
        scale(batch["power_db"]), batch["channel_mask"], batch["time_mask"]
    )
    n_regions, n_rows, n_columns = config.model.grid
    quantiser = config.model.quantiser
    shape = (len(SHOWN), n_regions, n_rows, n_columns, quantiser.n_quantisers)
    assert ids.shape == shape
    assert 0 <= int(ids.min()) <= int(ids.max()) < quantiser.n_codes
    assert hidden[3].all()
    assert not hidden[0].any()
    decoded = model.reconstruct(ids, hidden)
    assert decoded.shape == batch["power_db"].shape
    assert bool(torch.isfinite(decoded).all())
