"""What `inspect tokenizer` counts, against sums by hand, and what its page holds."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from openclef import artefact
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError, OpenclefError
from openclef.recipes import inspect_codes, inspect_figures, inspect_tokenizer
from openclef.recipes.inspect_numbers import N_TIMES, look
from openclef.recipes.tokenizers import get_tokenizer
from openclef.tokenizer.evaluate import Decoded
from openclef.tokenizer.quantisers import EmaConfig, FsqConfig, ProductConfig, ResidualConfig
from openclef.tokenizer.regions import REGIONS
from openclef.tokenizer.train import WEIGHTS, TokenizerStage
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan
from openclef.training import checkpoint
from openclef.training.loop import TrainConfig
from openclef.types import CHANNELS, LEFT, RIGHT, Spectrogram

SMALL = {
    "strides": ((4, 5), (2, 1), (2, 1)), "widths": (8, 8, 8), "n_blocks": 1, "attention": False,
    "quantiser": EmaConfig(n_codes=8, code_dim=4),
}  # fmt: skip
QUADRANTS = {"regions": "quadrants", "strides": ((4, 5), (2, 2), (2, 2))}
C3 = CHANNELS.index("C3")


def spectrogram(power_db: np.ndarray, *, missing=(), hidden=()) -> Spectrogram:
    """A window; `hidden` are (start, stop) of frames."""
    time_mask = np.zeros(1280, bool)
    for start, stop in hidden:
        time_mask[start:stop] = True
    return Spectrogram(
        power_db=power_db.astype(np.float16).astype(np.float32),
        freqs_hz=np.arange(128, dtype=np.float32) / 4,
        times_s=np.arange(1280, dtype=np.float32),
        channel_mask=np.isin(CHANNELS, missing),
        time_mask=time_mask,
    )


def windows_table(windows: list[Spectrogram]) -> pl.DataFrame:
    """`windows.parquet` of sessions of one window."""
    return pl.DataFrame(
        {
            "row": np.arange(len(windows)),
            "session_id": [f"S{i:06d}" for i in range(len(windows))],
            "window": np.zeros(len(windows), np.int64),
            "start_s": np.zeros(len(windows)),
            "channel_mask": [w.channel_mask.tolist() for w in windows],
            "time_mask": [w.time_mask.tolist() for w in windows],
        }
    )


def in_memory(*windows: Spectrogram) -> SimpleNamespace:
    return SimpleNamespace(windows=windows_table(list(windows)), spectrogram=lambda i: windows[i])


def looked_at(tokenizer: Vqgan, *windows: Spectrogram):
    return look(tokenizer, in_memory(*windows), np.arange(len(windows)))


class Stub(Vqgan):
    """Decodes to `gain` times what it is given; ids by a rule: `[19, F, T]` to `[R, Fp, Tp, Q]`."""

    def __init__(self, *, gain: float = 1.0, ids=None, **changes) -> None:
        super().__init__(TokenizerConfig.model_validate({**SMALL, **changes}))
        self.gain, self.ids = gain, ids

    def tokenize(self, x_BCFT, channel_mask, time_mask):
        self.seen = x_BCFT
        shape = (*self.config.grid, self.config.quantiser.n_quantisers)
        rule = self.ids or (lambda x: torch.zeros(shape, dtype=torch.int64))
        return torch.stack([rule(x) for x in x_BCFT]), self.hidden(channel_mask, time_mask)

    def reconstruct(self, ids_BRFTQ, hidden_BRT):
        return self.gain * self.seen * 40


def noise(seed: int = 0) -> np.ndarray:
    return 8 * np.random.default_rng(seed).standard_normal((19, 128, 1280), dtype=np.float32)


def test_what_is_decoded_unchanged_has_no_error():
    found = looked_at(
        Stub(), spectrogram(noise(0)), spectrogram(noise(1), missing=["Cz"], hidden=[(180, 1280)])
    )
    assert found.fidelity.mean_r2 == pytest.approx(1, abs=1e-9)
    assert found.fidelity.residual_r2 == pytest.approx(1, abs=1e-9)
    assert found.windows["mae_db"].to_list() == pytest.approx([0, 0], abs=1e-5)
    assert found.fidelity.mean_correlation == pytest.approx(1, abs=1e-6)
    assert found.fidelity.residual_correlation == pytest.approx(1, abs=1e-6)
    assert found.fidelity.n_tokens == 8 * 256 + 8 * 36


def test_half_the_size_has_full_correlation_but_loses_variance():
    found = looked_at(Stub(gain=0.5), spectrogram(noise()))
    assert found.fidelity.residual_correlation == pytest.approx(1, abs=1e-5)
    assert found.fidelity.mean_correlation == pytest.approx(1, abs=1e-5)
    assert found.fidelity.residual_r2 == pytest.approx(0.75, abs=1e-5)


def test_correlations_are_those_of_numpy_over_visible_cells():
    windows = [spectrogram(noise(0)), spectrogram(noise(1), missing=["O1"], hidden=[(300, 1280)])]
    tokenizer = Stub()
    level = torch.linspace(-0.2, 0.2, 128)[None, :, None].expand(19, -1, 1)
    tokenizer.spectrum.total.copy_(level)
    tokenizer.spectrum.n_frames.fill_(1)
    tokenizer.reconstruct = lambda ids, hidden: 40 * tokenizer.seen.roll(1, 0).flip(2)
    found = looked_at(tokenizer, *windows)
    means, residuals = [], []
    for i, window in enumerate(windows):
        shown, frames = ~window.channel_mask, ~window.time_mask
        pair = []
        for power in (window.power_db, windows[1 - i].power_db[:, ::-1]):
            centred = np.clip(power, -40, 40) - 40 * level.numpy()
            pair.append(centred[shown][..., frames].astype(float))
        x, y = pair
        mx, my = (np.broadcast_to(p.mean(0), p.shape) for p in pair)
        means.append((mx.ravel(), my.ravel()))
        residuals.append(((x - mx).ravel(), (y - my).ravel()))

    def correlation(parts):
        x, y = (np.concatenate(values) for values in zip(*parts, strict=True))
        return (x @ y) / np.sqrt((x @ x) * (y @ y))

    found = found.fidelity
    assert found.mean_correlation == pytest.approx(correlation(means), abs=1e-5)
    assert found.residual_correlation == pytest.approx(correlation(residuals), abs=1e-5)


def bump(columns: slice, *, row: int = 2, db: float = 10.0) -> np.ndarray:
    """Zero but on C3, in one row of 4 Hz and some columns of 5 s."""
    power_db = np.zeros((19, 128, 1280))
    power_db[C3, 16 * row : 16 * (row + 1), 5 * columns.start : 5 * columns.stop] = db
    return power_db


def c3_is_high(x_CFT: torch.Tensor) -> torch.Tensor:
    """Code 1 where C3 is above zero in a patch of 16 frequencies and 5 frames, else 0."""
    patches = x_CFT[C3].reshape(8, 16, 256, 5).mean((1, 3))
    return (patches > 0).long()[None, ..., None]


def test_a_code_is_what_was_there_less_the_mean_of_its_row():
    found = looked_at(Stub(ids=c3_is_high), spectrogram(bump(slice(0, 10))))
    code = found.codes.code(0, 1)
    assert (code.n, code.share) == (10, 10 / 2048)
    expected = np.zeros((19, 16))
    expected[C3] = 10 - 10 * 10 / 256
    np.testing.assert_allclose(code.pattern_db, expected, atol=1e-9)
    p = 10 / 256
    assert code.deviation[C3] == pytest.approx(np.sqrt((1 - p) / p))
    assert np.delete(code.deviation, C3).tolist() == [0] * 18
    assert code.by_row.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert code.by_region.tolist() == [1]
    # 20 stretches of 64 s: the middles of the first 13 columns lie in the first one.
    assert code.by_time.tolist() == [10 / (13 * 8)] + [0] * (N_TIMES - 1)
    # In row 2 the other code has the other 246 patches; elsewhere it is all there is.
    other = found.codes.code(0, 0)
    assert other.n == 2048 - 10
    expected[C3] = -246 * (10 * 10 / 256) / 2038
    np.testing.assert_allclose(other.pattern_db, expected, atol=1e-9)


def test_hidden_channels_and_minutes_say_nothing_of_a_code():
    plain = looked_at(Stub(ids=c3_is_high), spectrogram(bump(slice(0, 10))))
    # The second window's C3 is hidden, and half of its first columns: their values do not count.
    hidden = bump(slice(0, 10), row=5, db=30)
    more = looked_at(
        Stub(ids=c3_is_high),
        spectrogram(bump(slice(0, 10))),
        spectrogram(hidden, missing=["C3"], hidden=[(0, 25)]),
    )
    a, b = plain.codes.code(0, 1), more.codes.code(0, 1)
    assert b.n == 10 + 5
    np.testing.assert_allclose(b.pattern_db[C3], a.pattern_db[C3], atol=1e-9)
    assert b.by_row.tolist() == [0, 0, 10 / 15, 0, 0, 5 / 15, 0, 0]


def test_a_patch_is_the_mean_of_its_visible_frames():
    power_db = bump(slice(0, 1))
    power_db[C3, :, 3:5] = 40.0
    found = looked_at(Stub(ids=c3_is_high), spectrogram(power_db, hidden=[(3, 5)]))
    np.testing.assert_allclose(
        found.codes.code(0, 1).pattern_db[C3].max(), (10 - 10 / 256) / 8, atol=1e-9
    )


def test_a_region_tells_of_its_own_channels():
    def ids(x):  # code 3 in the second region, at the front on the right; 0 elsewhere
        return torch.tensor([0, 3, 0, 0])[:, None, None, None].expand(4, 8, 64, 1)

    found = looked_at(Stub(ids=ids, **QUADRANTS), spectrogram(noise()))
    code = found.codes.code(0, 3)
    known = np.isfinite(code.deviation)
    assert {name for name, k in zip(CHANNELS, known, strict=True) if k} == set(
        REGIONS["quadrants"][1]
    )
    assert code.by_region.tolist() == [0, 1, 0, 0]
    assert code.n == 8 * 64
    np.testing.assert_allclose(np.nan_to_num(code.pattern_db), 0, atol=1e-9)


def test_a_pair_with_a_hidden_channel_tells_nothing_of_a_code_of_differences():
    def ids(x):  # code 3 in the second region, of the differences
        return torch.tensor([0, 3])[:, None, None, None].expand(2, 8, 128, 1)

    tokenizer = Stub(ids=ids, regions="mid_side", strides=((4, 5), (2, 2), (2, 1)))
    codes = looked_at(tokenizer, spectrogram(noise(), missing=["F3", "O2"])).codes
    known = {
        index: {n for n, d in zip(CHANNELS, codes.code(0, index).deviation, strict=True) if d >= 0}
        for index in (0, 3)
    }
    assert known[0] == set(CHANNELS) - {"F3", "O2"}  # a mean needs one of its pair
    assert known[3] == {*LEFT, *RIGHT} - {"F3", "F4", "O1", "O2"}


@pytest.mark.parametrize(("n_elsewhere", "is_shown"), [(3, False), (4, True)])
def test_a_region_with_under_a_tenth_of_a_codes_tokens_is_not_shown(n_elsewhere, is_shown):
    ids = torch.zeros(4, 8, 64, 1, dtype=torch.int64)
    ids[0, 0, :30], ids[3, 5, :n_elsewhere] = 3, 3
    code = looked_at(Stub(ids=lambda x: ids, **QUADRANTS), spectrogram(noise())).codes.code(0, 3)
    assert np.isfinite(code.deviation[CHANNELS.index("Fp1")])
    assert np.isfinite(code.deviation[CHANNELS.index("O2")]) == is_shown
    n = 30 + n_elsewhere
    assert (code.n, code.by_region.tolist()) == (n, [30 / n, 0, 0, n_elsewhere / n])


def test_codes_of_a_token_are_counted_apart():
    def ids(x):
        first = torch.arange(256).expand(1, 8, 256) % 4
        return torch.stack([first, torch.full_like(first, 7)], -1)

    quantiser = ProductConfig(n_codes=8, code_dim=4)
    found = looked_at(Stub(ids=ids, quantiser=quantiser), spectrogram(noise()))
    named = [(code.q, code.index, code.n) for code in found.codes.most_used(12)]
    assert named == [(0, 0, 512), (0, 1, 512), (0, 2, 512), (0, 3, 512), (1, 7, 2048)]
    assert found.fidelity.perplexity == pytest.approx([4, 1])
    drawn = inspect_codes.code_use(found.fidelity)
    shares = drawn.numbers.filter(pl.col("value") > 0).select("code_of_token", "rank", "value")
    assert shares.rows() == [(1, 1, 0.25), (1, 2, 0.25), (1, 3, 0.25), (1, 4, 0.25), (2, 1, 1.0)]
    assert "code 2 of a token: perplexity 1.0 of 8, 87.5% unused" in drawn.figure.alt


def test_time_is_that_of_the_session():
    windows = [spectrogram(bump(slice(0, 10))), spectrogram(bump(slice(0, 10)))]
    cohort = in_memory(*windows)
    cohort.windows = cohort.windows.with_columns(start_s=pl.Series([0.0, 1280.0]))
    code = look(Stub(ids=c3_is_high), cohort, np.arange(2)).codes.code(0, 1)
    assert np.flatnonzero(code.by_time).tolist() == [0, N_TIMES // 2]


def test_stretches_end_with_the_last_visible_second_and_each_has_tokens():
    window = spectrogram(noise(), hidden=[(180, 1280)])
    for tokenizer, n in ((Stub(), N_TIMES), (Stub(**QUADRANTS), 180 // 20)):
        codes = looked_at(tokenizer, window).codes
        assert codes.time_edges_s[-1] == 180
        assert codes.code(0, 0).by_time.tolist() == [1] * n


def test_windows_are_described_by_what_is_special_about_them():
    loud = spectrogram(noise(1) * 0 + 50, missing=["O1", "O2"], hidden=[(100, 200), (600, 1280)])
    found = looked_at(Stub(gain=0.5), spectrogram(noise()), loud)
    worst, _ = inspect_tokenizer.failures(found)
    assert worst["row"] == 1
    assert worst["mae_db"] == pytest.approx(20)  # 50 dB are 40 to the tokenizer
    assert worst["level_db"] == pytest.approx(40)
    assert worst["missing"] == ["O1", "O2"]
    assert worst["visible_min"] == pytest.approx(500 / 60)
    assert worst["gap_share"] == pytest.approx(100 / 600)
    assert worst["clipped"] == 1


def test_values_that_are_not_finite_leave_a_window_out_unless_hidden():
    broken = noise(1)
    broken[3, 4, 5] = np.nan
    hidden = noise(2)
    hidden[0, 0, 700:] = np.inf
    found = looked_at(
        Stub(), spectrogram(noise()), spectrogram(broken), spectrogram(hidden, hidden=[(700, 1280)])
    )
    assert found.n_not_finite == 1
    assert found.windows["row"].to_list() == [0, 2]
    assert found.fidelity.mean_r2 == pytest.approx(1)
    with pytest.raises(ValueError, match="no window with finite values"):
        looked_at(Stub(), spectrogram(broken))


def decoded(window: Spectrogram, power_db: np.ndarray) -> Decoded:
    none = np.zeros((1, 8, 256), bool)
    return Decoded(0, window, power_db.astype(np.float32), none[..., None].astype(int), none[:, 0])


def test_a_reconstruction_shows_the_mean_channels_and_left_minus_right():
    left = np.array([name[-1] in "1357" for name in CHANNELS])
    power_db = np.where(left, 6.0, 2.0)[:, None, None] * np.ones((19, 128, 1280))
    window = spectrogram(power_db, missing=["F3"], hidden=[(40, 60), (640, 1280)])
    drawn = inspect_figures.reconstruction(decoded(window, power_db - 1), name="X", start_s=1280.0)
    table = drawn.numbers
    assert table["series"].unique(maintain_order=True).to_list() == [
        "mean of 18", "C3", "T4", "O2", "Fp1", "left - right",
    ]  # fmt: skip
    minutes = table["minute"].unique().sort()
    assert (minutes[0], minutes.len()) == (1280 / 60, 320)  # in steps of 2 s, to the last visible
    grey = table.filter(pl.col("value").is_null())["minute"].unique().sort()
    np.testing.assert_allclose(grey, (1280 + np.arange(40, 60, 2)) / 60)
    shown = {
        (row["item"], row["series"]): row["value"]
        for row in table.filter(pl.col("minute") < 1300 / 60).unique(["item", "series"]).to_dicts()
    }
    assert shown["original", "left - right"] == pytest.approx(4)  # of the seven pairs without F3
    assert shown["decoded", "C3"] == pytest.approx(5)
    assert shown["decoded - original", "mean of 18"] == pytest.approx(-1)
    assert shown["decoded - original", "left - right"] == pytest.approx(0)
    assert "7 homologous pairs" in drawn.figure.caption


def test_errors_are_averaged_by_band():
    tokenizer = Stub()
    tokenizer.reconstruct = lambda ids, hidden: torch.zeros_like(tokenizer.seen)
    power_db = np.zeros((19, 128, 1280))
    power_db[C3, 32:52] = 7.0  # alpha: 8 to 13 Hz
    found = looked_at(tokenizer, spectrogram(power_db))
    table = inspect_figures.error_maps(found.fidelity).numbers
    mae = {(row["channel"], row["band"]): row["value"] for row in
           table.filter(item="MAE (dB)").to_dicts()}  # fmt: skip
    assert mae["C3", "alpha"] == 7
    assert mae["C3", "theta"] == mae["O1", "alpha"] == 0
    assert mae["all", "alpha"] == pytest.approx(7 / 19)
    scalp = inspect_figures.error_on_scalp(found.fidelity)
    assert "alpha: most at C3, 7.00 dB" in scalp.figure.alt


@pytest.mark.parametrize(
    "changes",
    [
        {"quantiser": FsqConfig(levels=(4, 4))},
        {"quantiser": ResidualConfig(n_codes=16, code_dim=4), **QUADRANTS},
    ],
)
def test_every_quantiser_and_region_is_counted(changes):
    torch.manual_seed(0)
    tokenizer = Vqgan(TokenizerConfig.model_validate({**SMALL, **changes}))
    tokenizer.quantiser.start(
        torch.randn(99, tokenizer.config.quantiser.code_dim), torch.Generator()
    )
    ten = spectrogram(noise(), missing=CHANNELS[10:], hidden=[(180, 1280)])
    found = looked_at(tokenizer, ten, spectrogram(noise(1)))
    for code in found.codes.most_used(4):
        assert code.n == found.fidelity.code_counts[code.q, code.index]


# The page as a whole.

WINDOWS = [
    spectrogram(noise(0)),
    spectrogram(noise(1), missing=CHANNELS[10:], hidden=[(180, 1280)]),
    spectrogram(noise(2), missing=CHANNELS),
    spectrogram(noise(3), hidden=[(0, 1280)]),
    spectrogram(noise(4)),
]


def write_tokenizer(folder: Path, model: TokenizerConfig) -> Path:
    stage = TokenizerStage(model=model, train=TrainConfig(n_steps=1, batch_size=1))
    torch.manual_seed(0)
    tokenizer = Vqgan(model)
    tokenizer.quantiser.start(torch.randn(99, model.quantiser.code_dim), torch.Generator())
    made = artefact.begin(
        folder, kind="tokenizer", config=stage.model_dump(mode="json"), inputs={"cohort": "x"}
    )
    checkpoint.save_tensors(folder / WEIGHTS, dict(tokenizer.state_dict()))
    made.finish([WEIGHTS])
    return folder


def write_cohort(folder: Path, windows: list[Spectrogram], splits: list[str]) -> Cohort:
    made = artefact.begin(folder, kind="cohort", config={}, inputs={})
    windows_table(windows).write_parquet(folder / "windows.parquet")
    pl.DataFrame(
        {
            "session_id": [f"S{i:06d}" for i in range(len(windows))],
            "subject_id": [987650 + i for i in range(len(windows))],
            "path": ["sub-Doe/Doe_Jane.edf"] * len(windows),
            "split": splits,
        }
    ).write_parquet(folder / "sessions.parquet")
    power_db = np.stack([window.power_db for window in windows]).astype(np.float16)
    zarr.create_array(folder / "spectrograms", data=power_db, compressors=None)
    made.finish(["sessions.parquet", "windows.parquet"])
    return Cohort(folder)


class Page(HTMLParser):
    """Attributes of every tag, and the text of every cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in {"td", "th"}:
            self.cells[-1] += data.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """10 channels for 3 minutes, quadrants, product codes."""
    quantiser = ProductConfig(n_codes=16, code_dim=4)
    return make(
        tmp_path_factory.mktemp("inspect"),
        TokenizerConfig.model_validate({**SMALL, **QUADRANTS, "quantiser": quantiser}),
        WINDOWS,
        splits=["held_out"] * 4 + ["train"],
    )


def make(folder: Path, model: TokenizerConfig, windows, *, splits=None) -> SimpleNamespace:
    """A page of one example and two codes, and what it was made of."""
    tokenizer = write_tokenizer(folder / "tokenizer", model)
    cohort = write_cohort(folder / "cohort", windows, splits or ["held_out"] * len(windows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect_tokenizer, "N_CODES", 2)
        inspect_tokenizer.inspect_tokenizer(tokenizer, cohort, folder / "page.html", n_examples=1)
    return SimpleNamespace(folder=folder, tokenizer=tokenizer, cohort=cohort)


def test_page_is_self_contained_and_every_picture_has_a_text(made):
    page = Page((made.folder / "page.html").read_text("utf-8"))
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 1 + 3 + 1 + 1 + 1
    for attrs in pictures:
        assert len(attrs["alt"]) > 40
        kind, _, data = attrs["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_page_names_sessions_and_neither_patients_nor_paths(made):
    text = (made.folder / "page.html").read_text("utf-8")
    assert "S000001" in text
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    for secret in ("98765", "Doe", ".edf", str(made.folder)):
        assert secret not in text
    numbers = pl.read_parquet(made.folder / "page.parquet")
    secret = pl.col(pl.String).str.contains("98765|Doe|edf")
    assert numbers.filter(pl.any_horizontal(secret)).is_empty()


def test_page_says_what_is_left_out(made):
    text = (made.folder / "page.html").read_text("utf-8")
    assert "2 windows of the split, in which nothing is visible, are left out" in text


def test_table_on_top_is_of_the_windows_looked_at(made):
    cells = Page((made.folder / "page.html").read_text("utf-8")).cells
    shown = dict(pairwise(cells))
    assert shown["windows"] == shown["patients"] == "2"
    assert shown["grid"] == "4 x 8 x 64"
    assert shown["bits a session"] == "16,384"  # 2,048 tokens of two codes out of 16
    # Ten channels, O1 to C4, of three minutes: 9 columns of the back quadrants; Fz: of the front's.
    assert shown["tokens"] == f"{8 * (4 * 64 + 2 * 9):,}"


def test_numbers_of_every_figure_lie_beside_the_page(made):
    numbers = pl.read_parquet(made.folder / "page.parquet")
    assert numbers["figure"].unique(maintain_order=True).to_list() == [
        "summary", "reconstruction", "error by band", "error by frequency", "error on the scalp",
        "code use", "most used codes", "error by window",
    ]  # fmt: skip
    used = numbers.filter(figure="code use")
    sums = used.group_by("code_of_token").agg(pl.col("value").sum()).sort("code_of_token")
    assert sums["value"].to_list() == pytest.approx([1, 1])
    metadata = pq.read_schema(made.folder / "page.parquet").metadata
    assert metadata[b"openclef.cohort"].decode() == made.cohort.hash


def inspect(made, name: str = "page.html", **options):
    options = {"n_examples": 1, **options}
    return inspect_tokenizer.inspect_tokenizer(
        made.tokenizer, made.cohort, made.folder / name, **options
    )


def test_a_page_that_is_there_is_left_alone_and_another_refused(made):
    before = (made.folder / "page.html").stat().st_mtime_ns
    inspect(made)
    assert (made.folder / "page.html").stat().st_mtime_ns == before
    with pytest.raises(ArtefactError, match=r"page\.parquet: .*seed: 0 there, 1 asked"):
        inspect(made, seed=1)


def test_files_of_others_are_not_overwritten(made):
    (made.folder / "mine.html").write_text("mine")
    with pytest.raises(ArtefactError, match=r"mine\.html: exists"):
        inspect(made, "mine.html")
    pl.DataFrame({"a": [1]}).write_parquet(made.folder / "table.parquet")
    with pytest.raises(ArtefactError, match=r"table\.parquet: exists"):
        inspect(made, "table.html")
    (made.folder / "text.parquet").write_text("no parquet")
    with pytest.raises(ArtefactError, match=r"text\.parquet: exists"):
        inspect(made, "text.html")
    assert (made.folder / "mine.html").read_text() == "mine"
    with pytest.raises(OpenclefError, match=r"ends in \.html"):
        inspect(made, "page.parquet")


def test_what_cannot_be_looked_at_is_refused(made):
    with pytest.raises(OpenclefError, match="did you mean 'held_out'"):
        inspect(made, "other.html", split="heldout")
    with pytest.raises(OpenclefError, match="split probe has no window"):
        inspect(made, "other.html", split="probe")


def test_windows_are_drawn_by_seed_among_the_visible_ones(made):
    rows, n_hidden = inspect_tokenizer.choose_windows(made.cohort, "held_out", n_windows=9, seed=0)
    assert (rows.tolist(), n_hidden) == ([0, 1], 2)
    draws = {
        seed: inspect_tokenizer.choose_windows(made.cohort, "held_out", n_windows=1, seed=seed)
        for seed in range(8)
    }
    assert {int(rows[0]) for rows, _ in draws.values()} == {0, 1}


def test_one_channel_will_do(tmp_path):
    window = spectrogram(noise(), missing=[c for c in CHANNELS if c != "Pz"], hidden=[(60, 1280)])
    make(tmp_path, TokenizerConfig.model_validate(SMALL), [window])
    text = (tmp_path / "page.html").read_text("utf-8")
    assert ">nan<" not in text
    shown = dict(pairwise(Page(text).cells))
    for name in ("R2 of the residuals", "correlation of the residuals"):
        assert shown[name] == "none (one channel)"
    assert float(shown["R2 of the mean over channels"]) < 1
    numbers = pl.read_parquet(tmp_path / "page.parquet")
    series = numbers.filter(figure="reconstruction")["series"].unique(maintain_order=True)
    assert series.to_list() == ["mean of 1", "Pz"]
    known = numbers.filter(figure="error on the scalp").drop_nulls("value")["channel"].unique()
    assert known.to_list() == ["Pz"]
    of_residuals = numbers.filter(pl.col("item") == "R2 of residuals")
    assert of_residuals["value"].is_null().all()
    assert set(of_residuals["figure"]) == {"error by band", "error by frequency"}


def test_page_tells_of_bands_and_of_means_and_differences(tmp_path):
    quantiser = EmaConfig(n_codes=8, code_dim=4, metric="euclidean")
    model = get_tokenizer("small").model.model_copy(
        update={"widths": (8, 8), "quantiser": quantiser}
    )
    make(tmp_path, model, [spectrogram(noise(), missing=["F3"], hidden=[(180, 1280)])])
    text = (tmp_path / "page.html").read_text("utf-8")
    assert dict(pairwise(Page(text).cells))["grid"] == "2 x 8 x 128"
    for said in (
        "rows of 2 to 10 Hz, columns of 10 s",
        "region 2 left minus right of the pairs",
        "the slope of the spectrum within a band counts as variance",
    ):
        assert said in text
    numbers = pl.read_parquet(tmp_path / "page.parquet")
    rows = numbers.filter(item="share of its tokens by row")["freq_hz"].unique().sort()
    assert rows.to_list() == [0, 2, 4, 6, 8, 10, 12, 22]
