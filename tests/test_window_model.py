import copy

import numpy as np
import pytest
import torch

from openclef.errors import OpenclefError, RecordingError
from openclef.signal import UNITS
from openclef.tokenizer.regions import REGIONS
from openclef.types import CHANNELS
from openclef.window_model import ClefWindowModel
from tiny_clef import SFREQ_HZ, make_clef, noise_uv, recording_of

NAMES = ("EEG FP1-REF", "EOG", "O2", "T7", "FC1")


def windows_of(clef, *, names=CHANNELS, n_times=3000, n_outputs=2, **options):
    chs_info = [{"ch_name": name} for name in names]
    return ClefWindowModel(
        clef, n_outputs=n_outputs, n_chans=len(names), n_times=n_times, sfreq=SFREQ_HZ,
        chs_info=chs_info, **options,
    )  # fmt: skip


def features(model, signal_uv):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(signal_uv), return_features=True)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "mean"},
        {"pooling": "rows", "inputs": "codes+patches", "regions": "quadrants"},
        {"pooling": "class", "layer": 0},
    ],
    ids=str,
)
def test_a_window_has_the_features_that_embed_gives_its_recording(options):
    clef, signal_uv = make_clef(**options), noise_uv(2, 19, 3000)
    found = features(windows_of(clef), signal_uv)["features"]
    expected = [clef.embed(recording_of(one)).vector for one in signal_uv]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape == (2, clef.config.n_features)


def test_channels_are_found_by_name_and_the_rest_is_hidden():
    clef, signal_uv = make_clef(), noise_uv(1, 5, 3000)
    model = windows_of(clef, names=NAMES)
    used = recording_of(signal_uv[0, [0, 2, 3]], ("Fp1", "O2", "T3"))
    found = features(model, signal_uv)["features"]
    np.testing.assert_allclose(found[0], clef.embed(used).vector, atol=1e-5)
    signal_uv[:, [1, 4]] *= -1
    torch.testing.assert_close(features(model, signal_uv)["features"], found)
    assert [position for position, _ in model.montage.dropped] == [1, 4]


@pytest.mark.parametrize("stride_s", [5, 20])
@pytest.mark.parametrize("duration_s", [1, 2.5, 4])
def test_short_windows_are_their_mirror_images_up_to_one_visible_column(duration_s, stride_s):
    clef = make_clef(strides=((4, stride_s), (4, 1)))
    signal_uv = noise_uv(1, 19, round(duration_s * SFREQ_HZ))
    least = round({5: 4, 20: 11}[stride_s] * SFREQ_HZ)
    mirrored = np.concatenate([signal_uv[0], signal_uv[0, :, ::-1]], -1)
    mirrored = np.tile(mirrored, 6)[:, :least]
    found = features(windows_of(clef, n_times=signal_uv.shape[-1]), signal_uv)["features"]
    np.testing.assert_allclose(found[0], clef.embed(recording_of(mirrored)).vector, atol=1e-5)
    assert found.abs().max() > 0


@pytest.mark.parametrize(
    ("inputs", "layer", "codes"),
    [("codes+patches", -1, "names"), ("codes+patches", 0, "vectors"), ("patches", -1, "vectors"),
     ("patches", 0, "names")],
)  # fmt: skip
def test_the_encoder_learns_and_nothing_else_does(inputs, layer, codes):
    clef = make_clef(pooling="class", inputs=inputs, layer=layer, codes=codes)
    before = copy.deepcopy(clef.encoder.state_dict())
    model = windows_of(clef, names=("O1", "O2"))
    frozen = {name: value.clone() for name, value in model.tokenizer.state_dict().items()}
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learned, 0.1)
    scores = model.train()(torch.from_numpy(noise_uv(2, 2, 3000)))
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    assert all(p.grad is None for p in model.tokenizer.parameters())
    optimiser.step()
    assert (model.encoder.class_token != before["class_token"]).any()
    torch.testing.assert_close(model.tokenizer.state_dict(), frozen)
    torch.testing.assert_close(clef.encoder.state_dict(), before)  # the model given is a copy's


@pytest.mark.parametrize("regions", REGIONS)
@pytest.mark.parametrize("name", ["Cz", "O1", "F8"])
def test_any_one_channel_shows_something(regions, name):
    """A window that shows nothing has no vector, and what is trained on would be NaN."""
    model = windows_of(make_clef(regions=regions), names=(name,), n_times=100)
    features = model(torch.from_numpy(noise_uv(1, 1, 100)), return_features=True)["features"]
    assert features.isfinite().all()


def test_a_head_is_replaced():
    model = windows_of(make_clef(pooling="rows"), n_outputs=3)
    x = torch.from_numpy(noise_uv(2, 19, 3000))
    assert model.eval()(x).shape == (2, 3)
    found = model(x, return_features=True)
    assert found["cls_token"].shape == (2, 16)
    torch.testing.assert_close(model(x), model.final_layer(found["features"]))
    model.reset_head(5)
    assert model(x).shape == (2, 5)
    assert model.n_outputs == 5
    with pytest.raises(OpenclefError, match="n_outputs 0: at least 1"):
        model.reset_head(0)
    assert model.n_outputs == 5


def test_a_window_model_is_made_from_a_folder(tmp_path):
    clef = make_clef()
    clef.save_pretrained(tmp_path / "model")
    model = ClefWindowModel.from_pretrained(
        tmp_path / "model", n_outputs=2, n_times=400, sfreq=100, chs_info=[{"ch_name": "Cz"}]
    )
    signal_uv = noise_uv(3, 1, 400)
    direct = features(windows_of(clef, names=("Cz",), n_times=400), signal_uv)
    torch.testing.assert_close(features(model, signal_uv), direct)


@pytest.mark.parametrize("unit", ["V", "mV", "nV"])
def test_another_unit_is_refused_unless_said(unit):
    clef, signal_uv = make_clef(), noise_uv(3, 2, 1000)
    names = ("O1", "O2")
    given = torch.from_numpy(signal_uv / np.float32(UNITS[unit]))
    told = rf"x: typical amplitude .* uV if the numbers were {unit}: say .* one of nV, uV, mV, V"
    for few in (given, given[:1]):
        with pytest.raises(RecordingError, match=told):
            windows_of(clef, names=names, n_times=1000)(few)
    said = windows_of(clef, names=names, n_times=1000, unit=unit)
    assumed = windows_of(clef, names=names, n_times=1000)
    found = features(said, given.numpy())["features"]
    expected = features(assumed, signal_uv)["features"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_unit_is_believed_unless_it_cannot_be():
    signal_uv = torch.from_numpy(noise_uv(2, 2, 400))
    model = windows_of(make_clef(), names=("O1", "O2"), n_times=400, unit="V")
    with pytest.raises(RecordingError, match=r"\(unit V\) .* if the numbers were uV: say"):
        model(signal_uv)


@pytest.mark.parametrize("factor", [0.01, 0.05, 1, 60, 250])
def test_quiet_windows_and_artefacts_have_scores_whoever_shares_their_batch(factor):
    """From 0.2 uV, of suppressed EEG, to the 5 mV of an artefact."""
    model = windows_of(make_clef(), names=("O1", "O2"), n_times=400).eval()
    signal_uv = noise_uv(4, 2, 400)
    signal_uv[:2] *= factor
    with torch.no_grad():
        alone = model(torch.from_numpy(signal_uv[:2]))
        shared = model(torch.from_numpy(signal_uv))
    torch.testing.assert_close(alone, shared[:2])


@pytest.mark.parametrize("broken", [3.0, 1e-12, 1e-4, 1e5], ids=str)
def test_one_broken_channel_refuses_nothing(broken):
    """It is flat (a constant, or what filters leave of it), nearly so, or out of range."""
    signal_uv = noise_uv(1, 2, 400)
    noise = noise_uv(1, 400, seed=1)
    signal_uv[:, 0] = broken if broken == 3.0 else broken * noise
    model = windows_of(make_clef(), names=("O1", "O2"), n_times=400)
    assert model(torch.from_numpy(signal_uv)).isfinite().all()


def test_silence_has_scores_too():
    """Some tools ask for the shape of the output with zeros; headboxes are off for minutes."""
    model = windows_of(make_clef(), names=("O1",))
    for silence in (torch.zeros(1, 1, 3000), torch.full((1, 1, 3000), 7.0)):
        assert model(silence).isfinite().all()
    assert model(1e-9 * torch.from_numpy(noise_uv(1, 1, 3000))).isfinite().all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"names": ("EOG", "ECG")}, "no channel is one of the 19 electrodes"),
        ({"names": ()}, "chs_info must name every channel"),
        ({"n_times": 99}, "n_times 99 at 100 Hz is 0.99 s: allowed are 1 to 1280 s, .* 100$"),
        ({"n_times": 128001}, "nearest 128000"),
        ({"unit": "volt-ish"}, "unknown unit"),
        ({"n_outputs": 0}, "n_outputs 0"),
    ],
)
def test_what_cannot_be_used_is_refused(options, told):
    with pytest.raises(OpenclefError, match=told):
        windows_of(make_clef(), **options)


def test_signals_that_do_not_fit_are_refused():
    model = windows_of(make_clef(), names=("O1", "O2"), n_times=1000)
    for shape in ((1, 3, 1000), (1, 2, 999), (2, 1000)):
        with pytest.raises(OpenclefError, match=r"must be \(batch, 2 channels, 1000 samples\)"):
            model(torch.zeros(shape))
    broken = torch.from_numpy(noise_uv(1, 2, 1000))
    broken[0, 1, 5] = float("nan")
    with pytest.raises(RecordingError, match="not finite numbers in O2"):
        model(broken)
    with pytest.raises(OpenclefError, match="n_chans 3, but chs_info has 1"):
        ClefWindowModel(
            make_clef(), n_outputs=1, n_chans=3, n_times=400, sfreq=100,
            chs_info=[{"ch_name": "O1"}],
        )  # fmt: skip
    with pytest.raises(OpenclefError, match="sfreq 50 Hz"):
        ClefWindowModel(
            make_clef(), n_outputs=1, n_times=400, sfreq=50, chs_info=[{"ch_name": "O1"}]
        )
