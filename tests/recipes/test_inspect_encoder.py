"""What `inspect encoder` fills in and measures, against sums by hand, and what its page holds."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
import zarr
from torch import nn

from openclef import artefact
from openclef.cohort.store import Cohort
from openclef.encoder.evaluate import evaluate_encoder, mask_rows
from openclef.encoder.objective import EncoderLossConfig
from openclef.encoder.train import WEIGHTS, EncoderStage
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError, OpenclefError
from openclef.recipes import inspect_panels
from openclef.recipes.inspect_encoder import inspect_encoder, summarise
from openclef.recipes.inspect_filling import (
    EXPECTED,
    FILLS,
    INTERPOLATED,
    LIKELIEST,
    LINE_MEAN,
    TRUE,
    Filled,
    code_vectors,
    draw_windows,
    errors_db,
    fill,
    fill_windows,
)
from openclef.recipes.inspect_tokenizer import inspect_tokenizer
from openclef.tokenizer.features import WHITENER, FeaturesConfig, FeatureTable, extract_features
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.tokens import tokenize_cohort
from openclef.tokenizer.train import WEIGHTS as TOKENIZER_WEIGHTS
from openclef.tokenizer.train import TokenizerStage, load_tokenizer
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan
from openclef.training import checkpoint
from openclef.training.loop import TrainConfig
from openclef.types import CHANNELS, Spectrogram

TRAIN = TrainConfig(n_steps=1, batch_size=1)
# Bins merged four at a time, so that it is quick; tokens of 20 s, two regions: (2, 8, 64).
TOKENIZER = TokenizerConfig(
    regions="mid_side", bands=((128, 4),), strides=((2, 5), (2, 4)), widths=(8, 8), n_blocks=1,
    attention=False, quantiser=EmaConfig(n_codes=16, code_dim=4),
)  # fmt: skip
SHAPE = EncoderConfig(
    n_codes=16, grid=TOKENIZER.grid, width=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
    dropout=0.0, latent_dim=4, patch_dim=4,
)  # fmt: skip


def spectrogram(seed: int, *, missing=(), hidden=()) -> Spectrogram:
    """Noise of 8 dB; `hidden` are (start, stop) of frames, and not finite there."""
    rng = np.random.default_rng(seed)
    power_db = (8 * rng.standard_normal((19, 128, 1280))).astype(np.float16).astype(np.float32)
    time_mask = np.zeros(1280, bool)
    for start, stop in hidden:
        time_mask[start:stop] = True
    power_db[..., time_mask] = np.nan
    return Spectrogram(
        power_db=power_db,
        freqs_hz=np.arange(128, dtype=np.float32) / 4,
        times_s=np.arange(1280, dtype=np.float32),
        channel_mask=np.isin(CHANNELS, missing),
        time_mask=time_mask,
    )


def write_cohort(folder: Path, plan: dict[str, tuple[int, str, list[Spectrogram]]]) -> Cohort:
    """plan: of each session its patient, split and windows."""
    made = artefact.begin(folder, kind="cohort", config={}, inputs={})
    windows = [(name, i, w) for name, (_, _, all_) in plan.items() for i, w in enumerate(all_)]
    stored = [w.power_db.astype(np.float16) for _, _, w in windows]
    pl.DataFrame(
        {
            "row": np.arange(len(windows)),
            "session_id": [name for name, _, _ in windows],
            "window": [i for _, i, _ in windows],
            "start_s": [1280.0 * i for _, i, _ in windows],
            "channel_mask": [w.channel_mask.tolist() for _, _, w in windows],
            "time_mask": [w.time_mask.tolist() for _, _, w in windows],
            "hash": [hashlib.sha256(x.data).hexdigest()[:16] for x in stored],
        }
    ).write_parquet(folder / "windows.parquet")
    pl.DataFrame(
        {
            "session_id": list(plan),
            "subject_id": [patient for patient, _, _ in plan.values()],
            "path": ["sub-Doe/Doe_Jane.edf"] * len(plan),
            "split": [split for _, split, _ in plan.values()],
        }
    ).write_parquet(folder / "sessions.parquet")
    zarr.create_array(folder / "spectrograms", data=np.stack(stored), compressors=None)
    made.finish(["sessions.parquet", "windows.parquet"])
    return Cohort(folder)


def write_tokenizer(folder: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tokenizer = Vqgan(TOKENIZER)
    tokenizer.quantiser.start(torch.randn(99, 4), torch.Generator())
    stage = TokenizerStage(model=TOKENIZER, train=TRAIN)
    made = artefact.begin(
        folder, kind="tokenizer", config=stage.model_dump(mode="json"), inputs={"cohort": "x"}
    )
    checkpoint.save_tensors(folder / TOKENIZER_WEIGHTS, dict(tokenizer.state_dict()))
    made.finish([TOKENIZER_WEIGHTS])
    return folder


def write_encoder(
    folder: Path, tokens: TokenTable, *, loss=None, kind="encoder", has_learned=True, **shape
) -> Path:
    """Random weights; the head's biases are 0 unless it has learned."""
    torch.manual_seed(1)
    model = EncoderConfig.model_validate({**SHAPE.model_dump(), **shape})
    encoder = MaskedTransformer(model)
    if has_learned:
        nn.init.normal_(encoder.head[0].bias)
    stage = EncoderStage(model=model, loss=loss or EncoderLossConfig(), train=TRAIN)
    config = {"encoder": model.model_dump(mode="json")} if kind == "aligned" else stage.identity
    inputs = {"tokens": tokens.artefact.hash, **tokens.artefact.inputs}
    made = artefact.begin(folder, kind=kind, config=config, inputs=inputs)
    checkpoint.save_tensors(folder / WEIGHTS, dict(encoder.state_dict()))
    made.finish([WEIGHTS])
    return folder


PLAN = {
    "S0": (987650, "train", [spectrogram(0)]),
    "S1": (987651, "held_out", [spectrogram(1), spectrogram(2, hidden=[(40, 85), (500, 1280)])]),
    "S2": (987652, "held_out", [spectrogram(3, missing=["F3", "O2"], hidden=[(240, 1280)])]),
    "S3": (987653, "held_out", [spectrogram(4, missing=CHANNELS)]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A cohort, its tokens and an encoder of random weights."""
    folder = tmp_path_factory.mktemp("inspect_encoder")
    cohort = write_cohort(folder / "cohort", PLAN)
    tokenizer = write_tokenizer(folder / "tokenizer")
    tokenize_cohort(cohort, tokenizer, folder / "tokens", progress=False)
    tokens = TokenTable(folder / "tokens", cohort)
    encoder = write_encoder(folder / "encoder", tokens)
    return SimpleNamespace(
        folder=folder, cohort=cohort, tokenizer=tokenizer, tokens=tokens, encoder=encoder
    )


class Knows(nn.Module):
    """Is certain of each masked token's code, `wrong_by` numbers off."""

    def __init__(self, wrong_by: int = 0) -> None:
        super().__init__()
        self.wrong_by = wrong_by

    def forward(self, batch, masking):
        ids = (batch["ids"][masking.targets] + self.wrong_by) % 16
        return 1e4 * F.one_hot(ids, 16).float()


def filled(data, encoder, *, windows=None, ratio=0.75, seed=0) -> list[Filled]:
    """Of the three held-out windows with visible tokens."""
    chosen, _ = draw_windows(data.cohort, data.tokens, "held_out", n_windows=9, seed=0)
    return list(
        fill_windows(
            encoder.eval(), load_tokenizer(data.tokenizer), data.cohort,
            windows or EncoderWindows(data.tokens, ()), chosen, ratio=ratio,
            drop_ratio=0.5, seed=seed, label="",
        )
    )  # fmt: skip


def test_an_encoder_that_knows_every_code_gives_the_tokenizers_own_reconstruction(data):
    tokenizer = load_tokenizer(data.tokenizer)
    found = filled(data, Knows())
    assert [window.row for window in found] == [1, 2, 3]
    for window in found:
        ids = data.tokens.batch(np.array([window.row]))["ids"].reshape(1, 2, 8, 64, 1)
        own = tokenizer.reconstruct(ids, torch.from_numpy(window.hidden)[None])[0].numpy()
        for name in (TRUE, EXPECTED, LIKELIEST):
            np.testing.assert_array_equal(window.decoded[name], own)
        errors = errors_db(window, TOKENIZER)
        assert errors[EXPECTED] == errors[LIKELIEST] == errors[TRUE] > 0
        assert errors[LINE_MEAN] != errors[TRUE]
    for window in filled(data, Knows(wrong_by=1)):
        assert np.abs(window.decoded[EXPECTED] - window.decoded[TRUE]).max() > 0.01


class Scrambled(EncoderWindows):
    """The same windows with other codes where they will be masked."""

    def batch(self, rows):
        batch = super().batch(rows)
        masking = mask_rows(batch["hidden"], rows, ratio=0.75, drop_ratio=0.5, seed=0)
        return {**batch, "ids": torch.where(masking.masked, 15 - batch["ids"], batch["ids"])}


def test_what_is_filled_in_does_not_depend_on_the_codes_that_are_masked(data):
    torch.manual_seed(0)
    encoder = MaskedTransformer(SHAPE)
    for one, other in zip(
        filled(data, encoder),
        filled(data, encoder, windows=Scrambled(data.tokens, ())),
        strict=True,
    ):
        assert np.abs(one.decoded[TRUE] - other.decoded[TRUE]).max() > 0.01
        for name in FILLS[1:]:
            np.testing.assert_array_equal(one.decoded[name], other.decoded[name])


@pytest.mark.parametrize("ratio", [0.25, 0.75])
def test_masks_are_those_of_the_cross_entropy(data, ratio):
    for window in filled(data, Knows(), ratio=ratio, seed=3):
        rows = np.array([window.row])
        hidden = torch.from_numpy(data.tokens.hidden(rows))
        expected = mask_rows(hidden, rows, ratio=ratio, drop_ratio=0.5, seed=3).masked
        np.testing.assert_array_equal(window.masked.ravel(), expected[0])
        assert window.masked.sum() == math.ceil(ratio * int((~hidden).sum()))
    # The first of these, by its frames: 45 hidden ones make two columns of 20 s hidden.
    second = filled(data, Knows())[1]
    assert np.flatnonzero(second.hidden[0]).tolist() == [2, 3, *range(25, 64)]


def line_of(ids: list[int], masked: list[int]) -> tuple[torch.Tensor, np.ndarray]:
    at = np.zeros((2, 1, len(ids)), bool)
    at[0, 0, masked], at[1] = True, True
    return torch.tensor([[ids], [ids]]), at


def test_each_filling_is_what_its_name_says():
    vectors = torch.tensor([[0.0, 8.0], [4.0, 0.0], [1.0, 1.0]])
    # First region: shown at columns 1 and 4, hidden at 5; the second shows nothing.
    ids, masked = line_of([2, 0, 2, 2, 1, 0], [0, 2, 3])
    hidden = np.zeros((2, 6), bool)
    hidden[:, 5] = True
    masked &= ~hidden[:, None]
    logits = torch.tensor([[0.0, 1.0, -1.0]]).repeat(8, 1)
    logits[0] = torch.tensor([3.0, 0.0, 0.0])
    found = {name: x.numpy() for name, x in fill(vectors, ids, masked, hidden, logits).items()}
    assert list(found) == list(FILLS)
    for name in FILLS:
        np.testing.assert_array_equal(found[name][0, 0, [1, 4]], [[0, 8], [4, 0]])
    np.testing.assert_array_equal(found[TRUE][0, 0, [0, 2, 3]], [[1, 1]] * 3)
    p = np.exp([3.0, 0, 0]) / np.exp([3.0, 0, 0]).sum()
    np.testing.assert_allclose(found[EXPECTED][0, 0, 0], p @ vectors.numpy(), rtol=1e-6)
    p = np.exp([0.0, 1, -1]) / np.exp([0.0, 1, -1]).sum()
    np.testing.assert_allclose(found[EXPECTED][0, 0, 2], p @ vectors.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(found[LIKELIEST][0, 0, [0, 2]], [[0, 8], [4, 0]])
    # Nearest at the end, a third of the way between, two thirds.
    np.testing.assert_allclose(
        found[INTERPOLATED][0, 0, [0, 2, 3]], [[0, 8], [4 / 3, 16 / 3], [8 / 3, 8 / 3]], rtol=1e-6
    )
    np.testing.assert_array_equal(found[LINE_MEAN][0, 0, [0, 2, 3]], [[2, 4]] * 3)
    for name in (INTERPOLATED, LINE_MEAN):  # nothing shown: the mean of all that are
        np.testing.assert_array_equal(found[name][1, 0, :5], [[2, 4]] * 5)


def test_vectors_of_codes_are_what_the_decoder_gets(data):
    tokenizer = load_tokenizer(data.tokenizer)
    vectors = code_vectors(tokenizer)
    assert vectors.shape == (16, 4)
    ids = torch.tensor([[[[[5], [11]]]]])
    torch.testing.assert_close(tokenizer.quantiser.decode(ids)[0, 0, 0], vectors[[5, 11]])


def test_errors_are_of_visible_cells_of_places_that_are_masked_in_all_regions():
    window = spectrogram(0, missing=["Cz"], hidden=[(20, 25), (60, 1280)])
    masked = np.zeros((2, 8, 64), bool)
    masked[:, 2, 1] = True  # frames 20 to 40, of which five are hidden; 8 to 12 Hz
    masked[:, 7, 0] = True
    masked[0, 3, 0] = masked[1, 4, 2] = True  # half masked: not counted
    hidden = np.zeros((2, 64), bool)
    hidden[:, 3:] = True
    original = np.nan_to_num(window.power_db)
    decoded = original + 100.0
    decoded[:, 32:48, 25:40] = original[:, 32:48, 25:40] + 2
    decoded[:, 112:128, 0:20] = original[:, 112:128, 0:20] - 3
    decoded[CHANNELS.index("Cz")] = 1e6
    window = Spectrogram(
        power_db=original, freqs_hz=window.freqs_hz, times_s=window.times_s,
        channel_mask=window.channel_mask, time_mask=window.time_mask,
    )  # fmt: skip
    one = Filled(0, window, masked, hidden, {EXPECTED: decoded})
    expected = (15 * 2 + 20 * 3) / 35
    assert errors_db(one, TOKENIZER) == {EXPECTED: pytest.approx(expected, abs=1e-4)}
    # A region without tokens has nothing to show: then the other's masks decide.
    hidden[1] = True
    masked[1] = False
    more = errors_db(Filled(0, window, masked, hidden, {EXPECTED: decoded}), TOKENIZER)
    expected = (15 * 2 + 20 * 3 + 20 * 100) / 55
    assert more == {EXPECTED: pytest.approx(expected, abs=1e-4)}


def measured(errors: list[float], patients: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {name: np.array(errors) + i * (name != INTERPOLATED) for i, name in enumerate(FILLS)}
        | {"subject_id": patients}
    )


def test_standard_errors_are_over_patients():
    errors = [1.0, 4.0, 2.5, 7.0]
    once = summarise(measured(errors, [1, 2, 3, 4]))
    se = np.std(errors, ddof=1) / 2
    assert once["mae_db"].to_list() == pytest.approx([3.625, 4.625, 5.625, 3.625, 7.625])
    assert once["se_db"].to_list() == pytest.approx([se] * 5)
    # Windows of a patient that say the same thing twice tell no more.
    twice = summarise(measured(errors * 2, [1, 2, 3, 4] * 2))
    assert twice["se_db"].to_list() == pytest.approx([se] * 5)
    assert twice["above_db"].to_list() == pytest.approx([0, 1, 2, 0, 4])
    assert twice["above_se_db"].to_list() == pytest.approx([0] * 5, abs=1e-9)
    alone = summarise(measured(errors, [1] * 4))
    assert alone["mae_db"][0] == pytest.approx(3.625)
    assert alone["se_db"].is_null().all()


def test_panels_hide_what_is_masked_in_the_region_that_they_are_of(data):
    window = filled(data, Knows())[1]
    drawn = inspect_panels.filled_in(window, TOKENIZER, name="X", told="none", start_s=1280.0)
    table = drawn.numbers
    assert table["series"].unique(maintain_order=True).to_list() == ["mean of 19", "left - right"]
    hidden = np.zeros(500, bool)
    hidden[40:85] = True
    for region, series in enumerate(["mean of 19", "left - right"]):
        images = {
            kind: table.filter(item=kind, series=series)["value"].to_numpy().reshape(128, -1)
            for kind in table["item"].unique()
        }
        assert images[inspect_panels.SHOWN].shape == (128, 250)  # in steps of 2 s
        is_grey = np.isnan(images[inspect_panels.DECODED])
        np.testing.assert_array_equal(is_grey, np.tile(hidden.reshape(250, 2).all(1), (128, 1)))
        masked = window.masked[region].repeat(16, 0).repeat(10, 1)[:, :250]
        np.testing.assert_array_equal(np.isnan(images[inspect_panels.SHOWN]), masked | is_grey)
        for kind in (inspect_panels.ORIGINAL, inspect_panels.FILLED, LIKELIEST):
            np.testing.assert_array_equal(np.isnan(images[kind]), is_grey)
    minutes = table["minute"].unique().sort()
    assert (minutes[0], minutes.len()) == (1280 / 60, 250)
    power_db = window.original.power_db
    left = [CHANNELS.index(pair[0]) for pair in inspect_panels.PAIRS]
    right = [CHANNELS.index(pair[1]) for pair in inspect_panels.PAIRS]
    of_original = table.filter(item=inspect_panels.ORIGINAL).filter(minute=minutes[0], freq_hz=8.0)
    assert of_original["value"].to_list() == pytest.approx(
        [
            power_db[:, 32, :2].mean(),
            (power_db[left, 32, :2] - power_db[right, 32, :2]).mean(),
        ],
        abs=1e-4,
    )


@pytest.mark.parametrize(
    ("regions", "missing", "labels"),
    [
        ("all", (), ["mean of 19", "left - right"]),
        ("all", ["F3", "F7", "Fp1", "T3", "C3", "T5", "P3", "O1"], ["mean of 11", "T4"]),
        ("all", [c for c in CHANNELS if c != "Pz"], ["mean of 1"]),
        ("mid_side", ["F3"], ["mean of 18", "left - right"]),
        ("hemispheres", ["F3"], ["region 1: mean of 10", "region 2: mean of 11"]),
    ],
)
def test_a_series_is_of_what_the_tokens_of_its_region_are_made_of(regions, missing, labels):
    config = TokenizerConfig(regions=regions, attention=False)
    window = spectrogram(0, missing=missing)
    hidden = Vqgan(config).hidden(
        torch.from_numpy(window.channel_mask)[None], torch.from_numpy(window.time_mask)[None]
    )
    one = Filled(0, window, np.zeros(config.grid, bool), hidden[0].numpy(), {})
    found = inspect_panels.series_of(one, regions)
    assert [series.label for series in found] == labels
    for series in found:
        assert not series.weights[window.channel_mask].any()
        assert series.weights.sum() == pytest.approx(0 if series.is_difference else 1)


# The page as a whole.


def inspect(data, out: str = "page.html", **changes):
    arguments = {
        "encoder": data.encoder, "tokenizer": data.tokenizer, "cohort": data.cohort,
        "tokens": data.tokens, "n_examples": 2, **changes,
    }  # fmt: skip
    sources = [arguments.pop(name) for name in ("encoder", "tokenizer", "cohort", "tokens")]
    return inspect_encoder(*sources, data.folder / out, **arguments)


@pytest.fixture(scope="module")
def page(data):
    inspect(data)
    return data.folder / "page.html"


class Page(HTMLParser):
    """Attributes of every picture, names of every tag, and the rows of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str]] = []
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_page_is_self_contained_and_every_picture_has_a_text(page):
    read = Page(page.read_text("utf-8"))
    assert len(read.pictures) == 2
    for picture in read.pictures:
        assert "Mean absolute error where tokens are masked" in picture["alt"]
        kind, _, image = picture["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(image).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe"} & read.tags


def test_page_names_sessions_and_neither_patients_nor_paths(page):
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.read_text("utf-8"))
    assert "Session S1" in text
    for secret in ("98765", "Doe", ".edf", str(page.parent)):
        assert secret not in text
    numbers = pl.read_parquet(page.with_suffix(".parquet"))
    assert "subject_id" not in numbers.columns
    secret = pl.col(pl.String).str.contains("98765|Doe|edf")
    assert numbers.filter(pl.any_horizontal(secret)).is_empty()


def test_page_tells_what_it_was_made_of_and_what_is_left_out(data, page):
    text = page.read_text("utf-8")
    for made in (data.tokens.artefact, data.cohort.artefact):
        assert made.hash[:12] in text
    for folder, kind in ((data.encoder, "encoder"), (data.tokenizer, "tokenizer")):
        assert artefact.load(folder, kind=kind).hash[:12] in text
    assert "1 window of the split without a visible token" in text
    assert "trained on other tokens" not in text
    metadata = pq.read_schema(page.with_suffix(".parquet")).metadata
    assert metadata[b"openclef.tokens"].decode() == data.tokens.artefact.hash


def test_errors_of_the_page_are_means_over_the_windows(data, page):
    encoder = MaskedTransformer(SHAPE)
    encoder.load_state_dict(checkpoint.load_tensors(data.encoder / WEIGHTS)[0])
    by_window = [errors_db(window, TOKENIZER) for window in filled(data, encoder)]
    numbers = pl.read_parquet(page.with_suffix(".parquet"))
    told = {row[0]: row[1] for row in Page(page.read_text("utf-8")).rows if row[0] in FILLS}
    for name in FILLS:
        errors = [one[name] for one in by_window]
        found = numbers.filter(figure="error by window", item=name)
        assert found["value"].to_list() == pytest.approx(errors)
        assert found["session_id"].to_list() == ["S1", "S1", "S2"]
        (mean,) = numbers.filter(figure="error by filling", item="mae_db", fill=name)["value"]
        assert mean == pytest.approx(np.mean(errors))
        assert told[name].startswith(f"{mean:.3f} ±")


def test_examples_go_from_small_to_large_error(page):
    numbers = pl.read_parquet(page.with_suffix(".parquet"))
    names = numbers["example"].drop_nulls().unique(maintain_order=True).to_list()
    errors = [float(re.search(r"([\d.]+) dB", name)[1]) for name in names]
    assert errors == sorted(errors)
    assert [re.search(r"(\d) of 3 by error", name)[1] for name in names] == ["1", "3"]


def test_cross_entropy_is_that_of_evaluate_encoder(data, page):
    expected = evaluate_encoder(data.encoder, data.cohort, data.tokens, n_windows=100)
    numbers = pl.read_parquet(page.with_suffix(".parquet")).filter(figure="cross-entropy")
    found = numbers.filter(item="cross_entropy")
    assert found["predictor"].to_list() == expected["predictor"].to_list()
    assert found["value"].to_list() == pytest.approx(expected["cross_entropy"].to_list())
    told = {row[0]: row[1] for row in Page(page.read_text("utf-8")).rows}
    for name in ("encoder", "unigram", "bigram"):
        (value,) = expected.filter(predictor=name)["cross_entropy"]
        assert told[name].startswith(f"{value:.4f} ±")


def test_a_page_that_is_there_is_left_alone_and_another_refused(data, page):
    before = page.stat().st_mtime_ns, page.with_suffix(".parquet").stat().st_mtime_ns
    inspect(data)
    assert before == (page.stat().st_mtime_ns, page.with_suffix(".parquet").stat().st_mtime_ns)
    with pytest.raises(ArtefactError, match=r"page\.parquet: .*ratio: 0\.75 there, 0\.5 asked"):
        inspect(data, ratio=0.5)
    # That of the tokenizer is another page, whichever comes first.
    sources = data.tokenizer, data.cohort
    options = {"n_windows": 100, "n_examples": 2}
    with pytest.raises(ArtefactError, match=r"page\.parquet: .*encoder: .* there, none asked"):
        inspect_tokenizer(*sources, page, **options)
    numbers = pl.DataFrame({"value": [1.0]}).to_arrow()
    other = {"tokenizer": artefact.load(data.tokenizer, kind="tokenizer").hash}
    numbers = numbers.replace_schema_metadata({f"openclef.{k}": v for k, v in other.items()})
    pq.write_table(numbers, data.folder / "tokenizer.parquet")
    with pytest.raises(ArtefactError, match="encoder: none there"):
        inspect(data, "tokenizer.html")
    assert before == (page.stat().st_mtime_ns, page.with_suffix(".parquet").stat().st_mtime_ns)


def test_train_patients_are_not_compared_with_counts_of_themselves(data, tmp_path):
    given = SimpleNamespace(**{**vars(data), "folder": tmp_path})
    inspect(given, split="train")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "these are the train patients, whose codes" in text
    assert "unigram" not in text


def test_another_archive_can_be_looked_at_if_the_tokenizer_is_the_same(data, tmp_path):
    plan = {"A0": (1, "held_out", [spectrogram(7, hidden=[(200, 1280)])])}
    cohort = write_cohort(tmp_path / "cohort", plan)
    tokenize_cohort(cohort, data.tokenizer, tmp_path / "tokens", progress=False)
    there = SimpleNamespace(
        folder=tmp_path, cohort=cohort, tokens=TokenTable(tmp_path / "tokens", cohort),
        encoder=data.encoder, tokenizer=data.tokenizer,
    )  # fmt: skip
    inspect(there)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "It was trained on other tokens of this tokenizer" in text
    assert "this cohort has no train patients" in text
    assert "unigram" not in text
    assert "± unknown" in text  # one patient
    numbers = pl.read_parquet(tmp_path / "page.parquet")
    assert "cross-entropy" not in numbers["figure"].to_list()

    other = write_tokenizer(tmp_path / "tokenizer", seed=5)
    with pytest.raises(ArtefactError, match="encoder of another tokenizer"):
        inspect(there, "other.html", tokenizer=other)
    tokenize_cohort(cohort, other, tmp_path / "tokens2", progress=False)
    with pytest.raises(ArtefactError, match="tokens of another tokenizer"):
        inspect(there, "other.html", tokens=TokenTable(tmp_path / "tokens2", cohort))


PATCHES = EncoderLossConfig(code_weight=0, patch_weight=1)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"loss": PATCHES}, "trained with code_weight 0: its code head has learned nothing"),
        ({"inputs": "patches"}, "reads patches and no codes"),
        ({"has_learned": False}, "its code head is as it started"),
        ({"kind": "aligned", "has_learned": False}, "its code head is as it started"),
        ({"inputs": "codes+latents"}, "this encoder reads latents: give the features"),
    ],
)
def test_encoders_that_nothing_can_be_seen_of_are_refused(data, tmp_path, made, message):
    encoder = write_encoder(tmp_path / "encoder", data.tokens, **made)
    with pytest.raises(OpenclefError, match=message):
        inspect(data, "refused.html", encoder=encoder)
    assert not (data.folder / "refused.html").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"split": "heldout"}, "did you mean 'held_out'"),
        ({"split": "probe"}, "split probe has no window with a visible token"),
        ({"ratio": 0.0}, "ratio 0: give a share above 0 and below 1"),
        ({"ratio": 1.0}, "ratio 1: give a share above 0 and below 1"),
        ({"ratio": math.nan}, "ratio nan: give a share"),
        ({"ratio": 0.9999}, "no window of split held_out has both a token that is shown"),
    ],
)
def test_what_cannot_be_asked_is_refused(data, asked, message):
    with pytest.raises(OpenclefError, match=message):
        inspect(data, "refused.html", **asked)


def test_an_aligned_encoder_is_called_so(data, tmp_path):
    encoder = write_encoder(tmp_path / "aligned", data.tokens, kind="aligned")
    inspect(data, "aligned.html", encoder=encoder, n_examples=0)
    text = (data.folder / "aligned.html").read_text("utf-8")
    assert "Aligned encoder" in text
    assert "before alignment it may have filled in better" in text
    assert "<img" not in text


def test_features_must_be_whitened_as_the_encoder_was_taught(data, tmp_path):
    def extracted(name: str, seed: int) -> FeatureTable:
        config = FeaturesConfig(patch_dim=4, n_windows=1, seed=seed)
        sources = data.cohort, data.tokenizer, data.tokens
        return FeatureTable(extract_features(*sources, tmp_path / name, config=config).folder)

    features = extracted("features", 0)
    encoder = write_encoder(tmp_path / "encoder", data.tokens, inputs="codes+patches")
    (encoder / WHITENER).write_bytes(features.whitener_path.read_bytes())
    inspect(data, "patches.html", encoder=encoder, features=features, n_examples=0, n_windows=1)
    text = (data.folder / "patches.html").read_text("utf-8")
    assert "the encoder reads its patches too" in text
    assert features.artefact.hash[:12] in text
    (encoder / WHITENER).write_bytes(b"another")
    with pytest.raises(ArtefactError, match="patches of another whitener"):
        inspect(data, "refused.html", encoder=encoder, features=features)
