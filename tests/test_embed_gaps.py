"""`CLEF.embed` of recordings with gaps, from files and from memory; windows without a token."""

import edfio
import numpy as np
import pytest

import openclef
from openclef.embed_model import embed_file
from openclef.errors import OpenclefError, RecordingError
from openclef.model import CLEF
from openclef.types import Recording, Spectrogram
from tiny_clef import SFREQ_HZ, make_clef, noise_uv, recording_of

NAMES = ("O1", "C3")


@pytest.fixture(scope="module")
def clef() -> CLEF:
    return make_clef()


def write_edf_with_gaps(path, onsets_s):
    """EDF+D of noise in records of 1 s that begin at these times, all of 4 digits where moved."""
    signals = [
        edfio.EdfSignal(
            noise_uv(len(onsets_s) * int(SFREQ_HZ), seed=i), SFREQ_HZ, label=name,
            physical_dimension="uV", physical_range=(-500, 500),
        )
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    note = edfio.EdfAnnotation(1, None, "note")
    edfio.Edf(signals, data_record_duration=1, annotations=[note]).write(path)
    content = path.read_bytes().replace(b"EDF+C", b"EDF+D", 1)
    for record, onset_s in reversed(list(enumerate(onsets_s))):
        if record != onset_s:
            before, after = b"+%d\x14\x14" % record, b"+%d\x14\x14" % onset_s
            assert len(before) == len(after)
            assert content.count(before) == 1
            content = content.replace(before, after)
    path.write_bytes(content)
    return path


BURSTS_S = [*range(1280), *(1300 + 40 * i + s for i in range(25) for s in range(3))]


@pytest.mark.parametrize(
    ("onsets_s", "starts_s"),
    [
        ([*range(1000), *range(1500, 1503)], [0]),
        ([*range(1000), *range(1500, 1559)], [0]),
        ([*range(1000), *range(1500, 1560)], [0, 1280]),
        ([*range(1000), *range(9000, 9100)], [0, 8960]),
        ([*range(1000), *range(1270, 1345)], [0, 1280]),
        (BURSTS_S, [0, 1280]),
    ],
)
def test_file_and_memory_are_cut_alike(clef, tmp_path, onsets_s, starts_s):
    path = write_edf_with_gaps(tmp_path / "gaps.edf", onsets_s)
    from_file, in_memory = clef.embed(path), clef.embed(openclef.read_recording(path))
    assert from_file.window_starts_s.tolist() == starts_s
    assert in_memory.window_starts_s.tolist() == starts_s
    np.testing.assert_array_equal(in_memory.windows, from_file.windows)
    np.testing.assert_array_equal(in_memory.vector, from_file.vector)


@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_a_window_without_a_token_is_nan_and_in_no_mean(tmp_path, pooling):
    clef = make_clef(pooling=pooling)
    path = write_edf_with_gaps(tmp_path / "bursts.edf", BURSTS_S)
    embedding = embed_file(clef, path, tmp_path / "e.parquet")
    assert np.isnan(embedding.windows).all(1).tolist() == [False, True]
    np.testing.assert_array_equal(embedding.vector, embedding.windows[0])
    whole = openclef.read_recording(path).signal_uv[:, : 1280 * int(SFREQ_HZ)]
    first = clef.embed(recording_of(whole, NAMES))
    np.testing.assert_array_equal(embedding.vector, first.vector)


@pytest.mark.parametrize("pooling", ["mean", "rows", "moments", "class"])
@pytest.mark.parametrize("hidden", ["frames", "channels", "most of each token"])
def test_a_spectrogram_without_a_token_is_nan(pooling, hidden):
    clef = make_clef(pooling=pooling, inputs="codes+patches")
    power_db = np.zeros((19, 128, 1280), np.float32)
    time_mask = np.arange(1280) % 5 < {"frames": 5, "channels": 0}.get(hidden, 3)
    spectrogram = Spectrogram(
        power_db, np.arange(128) / 4, np.arange(1280), np.full(19, hidden == "channels"), time_mask
    )
    vector = clef.embed_spectrogram(spectrogram)
    assert vector.shape == (clef.config.n_features,)
    assert vector.dtype == np.float32
    assert np.isnan(vector).all()


EVERY_3_S = tuple((t, t + 1.0) for t in range(1, 30, 3))


@pytest.mark.parametrize("gaps", [((0.0, 30.0),), ((-5.0, 10.0), (8.0, 99.0)), EVERY_3_S])
def test_a_recording_in_which_nothing_is_visible_is_refused(clef, gaps):
    signal_uv = noise_uv(2, 3000)
    recording = Recording(signal_uv, SFREQ_HZ, NAMES, np.zeros(2, bool), gaps=gaps)
    with pytest.raises(OpenclefError, match="nothing is visible in this recording: every token"):
        clef.embed(recording)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_of_a_recording_in_another_unit_the_amplitude_is_told(clef, factor):
    signal_uv = (noise_uv(2, 3000) * factor).astype(np.float32)
    recording = Recording(signal_uv, SFREQ_HZ, NAMES, np.zeros(2, bool))
    with pytest.raises(RecordingError, match="amplitude"):
        clef.embed(recording)
