"""From tokens on disk to an encoder, its embeddings and its held-out cross-entropy."""

from datetime import datetime
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from openclef import artefact
from openclef.cohort.store import Cohort
from openclef.encoder import evaluate
from openclef.encoder.embed import embed_patches, embed_tokens, session_means
from openclef.encoder.evaluate import GridStatistics, evaluate_encoder, mask_rows
from openclef.encoder.load import load_encoder
from openclef.encoder.masking import MaskingConfig
from openclef.encoder.objective import EncoderLossConfig
from openclef.encoder.train import EncoderStage, train_encoder
from openclef.encoder.transformer import EncoderConfig
from openclef.encoder.windows import EncoderWindows, hour_of_day
from openclef.errors import ArtefactError, OpenclefError
from openclef.recipes.encoders import for_tokens, get_encoder
from openclef.recipes.recipe import changed
from openclef.tokenizer.features import WHITENER, FeatureTable
from openclef.tokenizer.token_table import CODE_VECTORS, TokenTable, fixed_lists
from openclef.training import checkpoint
from openclef.training.loop import TrainConfig
from openclef.training.optim import OptimConfig

GRID, N_CODES = (2, 2, 8), 8
N_TOKENS = 32
# session: (patient, split, start, number of windows); the tokens of "S3" all failed.
PLAN = {
    "S0": (0, "train", datetime(2020, 1, 1, 9, 30), 60),
    "S1": (1, "train", None, 60),
    "S2": (2, "tuning", datetime(2020, 1, 1, 23, 50), 4),
    "S3": (3, "held_out", None, 2),
    "S4": (4, "held_out", datetime(2020, 1, 1, 0, 0), 3),
    "S5": (4, "held_out", None, 1),
    "S6": (5, "held_out", None, 2),
    "S7": (6, "probe", None, 1),
}


def draw_ids(rng):
    """Codes of each line that stay as they are for a while, of four that the line has."""
    ids = np.zeros((4, 8), np.int64)
    for line in range(4):
        ids[line, 0] = rng.integers(4)
        for column in range(1, 8):
            ids[line, column] = rng.integers(4) if rng.random() < 0.2 else ids[line, column - 1]
        ids[line] += line
    return ids.ravel()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(cohort, tokens, features): features are the codes plus a hundredth of the dimension."""
    root = tmp_path_factory.mktemp("stages")
    windows = [(name, i) for name, (*_, n) in PLAN.items() for i in range(n)]
    stage = artefact.begin(root / "cohort", kind="cohort", config={}, inputs={})
    columns = zip(*[values[:3] for values in PLAN.values()], strict=True)
    subject, split, start = map(list, columns)
    pl.DataFrame(
        {
            "session_id": list(PLAN), "subject_id": subject, "split": split,
            "start_time": pl.Series(start, dtype=pl.Datetime("us")),
        }
    ).write_parquet(root / "cohort" / "sessions.parquet")  # fmt: skip
    pl.DataFrame(
        {
            "row": range(len(windows)),
            "session_id": [name for name, _ in windows],
            "window": [i for _, i in windows],
            "start_s": [1280.0 * i for _, i in windows],
            "channel_mask": [[c == row % 19 for c in range(19)] for row in range(len(windows))],
        }
    ).write_parquet(root / "cohort" / "windows.parquet")
    zarr.create_array(root / "cohort" / "spectrograms", shape=(1,), dtype="f4")
    stage.finish(["sessions.parquet", "windows.parquet"])
    cohort = Cohort(root / "cohort")

    rng = np.random.default_rng(0)
    ids = np.stack([draw_ids(rng) for _ in windows]).astype(np.uint16)
    valid = np.ones((len(windows), 16), bool)
    valid[::3, 6:8] = False  # of the first region
    ids[np.repeat(~valid.reshape(-1, 2, 1, 8), 2, axis=2).reshape(len(ids), -1)] = 0
    tokens = artefact.begin(
        root / "tokens", kind="tokens", inputs={"cohort": cohort.hash, "tokenizer": "t"},
        config={"grid": list(GRID), "n_codes": N_CODES, "n_quantisers": 1},
    )  # fmt: skip
    table = pa.table(
        {
            "session_id": [name for name, _ in windows],
            "window": [i for _, i in windows],
            "start_s": [1280.0 * i for _, i in windows],
            "ids": fixed_lists(ids),
            "valid": fixed_lists(valid),
            "error": ["cannot be read" if name == "S3" else None for name, _ in windows],
        }
    )
    pq.write_table(table, root / "tokens" / "part-00000.parquet")
    np.save(root / "tokens" / CODE_VECTORS, rng.normal(size=(N_CODES, 3)).astype(np.float32))
    tokens.finish(["part-00000.parquet", CODE_VECTORS])
    table = TokenTable(root / "tokens", cohort)

    folder = root / "features"
    features = artefact.begin(
        folder, kind="features", config={}, inputs={"tokens": table.artefact.hash}
    )
    for name, dim in (("latents", 3), ("patches", 4)):
        values = table.ids[..., None] + 0.01 * np.arange(dim)
        np.save(folder / f"{name}.npy", values.astype(np.float16))
    checkpoint.save_tensors(folder / WHITENER, {"snr": torch.zeros(1)})
    features.finish(["latents.npy", "patches.npy", WHITENER])
    return SimpleNamespace(cohort=cohort, tokens=table, features=FeatureTable(folder))


def stage_of(n_steps=60, loss=None, **changes):
    model = EncoderConfig(
        n_codes=N_CODES, grid=GRID, width=16, n_heads=2, n_encoder_layers=2, n_decoder_layers=1,
        dropout=0.0, latent_dim=3, patch_dim=4, **changes,
    )  # fmt: skip
    train = TrainConfig(
        n_steps=n_steps, batch_size=8, validate_every=10, optim=OptimConfig(lr=1e-2)
    )
    return EncoderStage(model=model, loss=loss or EncoderLossConfig(), train=train, n_validation=4)


EVERYTHING = {"inputs": "codes+patches", "use_channel_mask": True, "use_clock": True}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of an encoder that reads and predicts everything."""
    out = tmp_path_factory.mktemp("trained") / "encoder"
    config = stage_of(loss=EncoderLossConfig(latent_weight=1, patch_weight=1), **EVERYTHING)
    train_encoder(data.tokens, out, config=config, cohort=data.cohort, features=data.features)
    return out


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_holds_what_belongs_to_its_windows(data):
    names = {"latents", "patches", "channel_mask", "hour"}
    windows = EncoderWindows(data.tokens, names, cohort=data.cohort, features=data.features)
    rows = np.array([121, 0, 61, 124])  # S2's second, S0's first, S1's second, S4's first
    batch = windows.batch(rows)
    assert batch.keys() == names | {"ids", "hidden"}
    assert batch["hour"].tolist() == pytest.approx(
        [(24 + 50 / 60 - 1 + 1280 / 3600) % 24, 9.5, float("nan"), 0.0], nan_ok=True
    )
    # Two windows without tokens lie before S4's in the cohort.
    assert batch["channel_mask"].int().argmax(1).tolist() == [121 % 19, 0, 61 % 19, 126 % 19]
    expected = batch["ids"][..., None] + 0.01 * torch.arange(4)
    torch.testing.assert_close(batch["patches"], expected, rtol=1e-3, atol=1e-3)
    assert batch["latents"].dtype == torch.float32


def test_nothing_is_read_that_is_not_asked_for(data):
    assert EncoderWindows(data.tokens, []).batch(np.array([0])).keys() == {"ids", "hidden"}


def test_batches_are_made_when_they_are_asked_for(data):
    batches = EncoderWindows(data.tokens, []).batches(np.arange(7), 3)
    assert [len(batch["ids"]) for batch in batches] == [3, 3, 1]
    assert torch.equal(batches[1:][0]["ids"], batches[1]["ids"])


@pytest.mark.parametrize("name", ["latents", "hour"])
def test_a_source_that_is_not_given_is_told(data, name):
    with pytest.raises(OpenclefError, match=r"give the (features|cohort)"):
        EncoderWindows(data.tokens, [name])


def test_hours_go_on_after_midnight():
    assert hour_of_day(datetime(2020, 5, 1, 23, 30), 3600.0) == pytest.approx(0.5)
    assert np.isnan(hour_of_day(None, 0.0))


# --- training and embedding -----------------------------------------------------------------------


def test_every_loss_goes_down(trained):
    rows = [
        row for row in artefact.load(trained, kind="encoder").metrics() if row["split"] == "tuning"
    ]
    for name in ("loss", "cross_entropy", "latents", "patches"):
        assert rows[-1][name] < rows[0][name], name


def test_an_encoders_folder_is_enough_to_use_it(data, trained, tmp_path):
    stage = artefact.load(trained, kind="encoder")
    assert stage.inputs["features"] == data.features.artefact.hash
    assert (trained / WHITENER).read_bytes() == data.features.whitener_path.read_bytes()
    assert load_encoder(trained).config.inputs == "codes+patches"
    train_encoder(data.tokens, tmp_path / "plain", config=stage_of(n_steps=1))
    assert not (tmp_path / "plain" / WHITENER).exists()


def test_features_that_do_not_fit_are_refused(data, tmp_path):
    config = stage_of(inputs="codes+latents")
    wrong = changed(config, model=changed(config.model, latent_dim=5))
    with pytest.raises(ArtefactError, match="latents and patches of 3 and 4 numbers"):
        train_encoder(data.tokens, tmp_path / "e", config=wrong, features=data.features)


def test_named_encoders_fit_themselves_to_tokens(data):
    model = for_tokens(get_encoder("small"), data.tokens).model
    assert (model.grid, model.n_codes, model.width) == (GRID, N_CODES, 256)
    assert for_tokens(get_encoder("demo-code-vectors"), data.tokens).model.latent_dim == 3
    reads = for_tokens(get_encoder("demo-reads-patches"), data.tokens, data.features).model
    assert (reads.latent_dim, reads.patch_dim) == (
        data.features.latents.shape[-1], data.features.patches.shape[-1],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pooling", "width"), [("mean", 16), ("class", 16), ("rows", 64), ("moments", 128)]
)
def test_embeddings_are_of_windows_and_of_sessions(data, trained, tmp_path, pooling, width):
    sources = {"cohort": data.cohort, "features": data.features}
    out = tmp_path / "e"
    embed_tokens(trained, data.tokens, out, model="m", pooling=pooling, layer=0, **sources)
    windows = pl.read_parquet(out / "embeddings.parquet")
    names = windows["session_id"].to_list()
    assert names == ["S2"] * 4 + ["S4"] * 3 + ["S5"] + ["S6"] * 2 + ["S7"] + ["S3"]
    vectors = np.stack(windows["vector"].to_list())
    assert vectors.shape == (12, width)
    assert np.isnan(vectors[-1]).all()  # of S3 no window has tokens
    assert np.isfinite(vectors[:-1]).all()
    failed = pl.read_parquet(out / "failures.parquet")
    assert failed.rows() == [("S3", "cannot be read")]
    sessions = pl.read_parquet(out / "sessions.parquet")
    assert sessions["session_id"].to_list() == ["S2", "S4", "S5", "S6", "S7"]
    assert sessions["n_windows"].to_list() == [4, 3, 1, 2, 1]
    np.testing.assert_allclose(sessions["vector"][1].to_numpy(), vectors[4:7].mean(0), rtol=1e-5)


@pytest.mark.parametrize("pooling", ["moments", "class"])
def test_a_window_that_shows_nothing_is_in_no_mean(data, trained, tmp_path, monkeypatch, pooling):
    names = data.tokens.session_id.to_list()
    dark = np.array([names.index("S4") + 1, names.index("S5")])  # of three windows, of one
    hidden = TokenTable.hidden

    def hides(self, rows):
        found = hidden(self, rows)
        found[np.isin(rows, dark)] = True
        return found

    monkeypatch.setattr(TokenTable, "hidden", hides)
    sources = {"cohort": data.cohort, "features": data.features}
    embed_tokens(trained, data.tokens, tmp_path, model="m", pooling=pooling, **sources)
    windows = pl.read_parquet(tmp_path / "embeddings.parquet")
    vectors = np.stack(windows["vector"].to_list())
    assert windows["session_id"].to_list()[4:8] == ["S4"] * 3 + ["S5"]
    assert np.isnan(vectors).all(1).tolist() == [i in {5, 7, 11} for i in range(12)]
    sessions = pl.read_parquet(tmp_path / "sessions.parquet")
    assert sessions["session_id"].to_list() == ["S2", "S4", "S6", "S7"]
    np.testing.assert_allclose(sessions["vector"][1], vectors[[4, 6]].mean(0), rtol=1e-5)
    failed = pl.read_parquet(tmp_path / "failures.parquet")
    assert failed.rows() == [("S3", "cannot be read"), ("S5", "no token of any window is visible")]


def test_layers_differ_and_wrong_ones_are_refused(data, trained, tmp_path):
    sources = {"cohort": data.cohort, "features": data.features, "pooling": "mean", "model": "m"}
    for layer in (0, -1):
        embed_tokens(trained, data.tokens, tmp_path / str(layer), layer=layer, **sources)
    one, other = (pl.read_parquet(tmp_path / n / "embeddings.parquet") for n in ("0", "-1"))
    assert not one["vector"].equals(other["vector"])
    with pytest.raises(OpenclefError, match="layer 2"):
        embed_tokens(trained, data.tokens, tmp_path / "2", layer=2, **sources)


def test_session_means_keep_the_order():
    vectors = np.array([[1.0], [2.0], [5.0]], np.float32)
    frame = session_means(pl.Series(["b", "a", "b"]), vectors)
    assert frame["session_id"].to_list() == ["b", "a"]
    assert [list(v) for v in frame["vector"]] == [[3.0], [2.0]]


# --- held-out cross-entropy -----------------------------------------------------------------------


def test_references_are_what_counting_by_hand_gives(data):
    tokens, train = data.tokens, data.tokens.rows("train")
    row = int(data.tokens.rows("tuning")[0])
    hidden = tokens.hidden(np.array([row]))[0]
    masked = ~hidden & (np.random.default_rng(1).random(N_TOKENS) < 0.6)
    found = GridStatistics(tokens, train).cross_entropies(tokens.ids[row], hidden, masked)
    ids = tokens.ids[train].reshape(-1, 4, 8)
    shown = ~tokens.hidden(train).reshape(-1, 4, 8)
    ask, mask = tokens.ids[row].reshape(4, 8), masked.reshape(4, 8)
    visible = ~(hidden.reshape(4, 8) | mask)
    unigram, previous, nearest = [], [], []
    for line, column in zip(*np.nonzero(mask), strict=True):
        target = ask[line, column]
        seen = ids[:, line][shown[:, line]]
        prior = (np.sum(seen == target) + 1) / (len(seen) + N_CODES)
        unigram.append(prior)

        def mixed(at, step, line=line, target=target, prior=prior):
            if at is None:
                return prior
            n_both = n_given = 0
            for i in range(len(ids)):
                for c in range(8):
                    if 0 <= c + step < 8 and shown[i, line, c] and shown[i, line, c + step]:
                        given = ids[i, line, c] == ask[line, at]
                        n_given += given
                        n_both += given and ids[i, line, c + step] == target
            return (n_both + 10 * prior) / (n_given + 10)

        before = [c for c in range(column) if visible[line, c]]
        after = [c for c in range(column + 1, 8) if visible[line, c]]
        left, right = (before[-1] if before else None), (after[0] if after else None)
        previous.append(mixed(left, 1))
        use_left = right is None or (left is not None and column - left <= right - column)
        nearest.append(mixed(left, 1) if use_left else mixed(right, -1))
    np.testing.assert_allclose(found["unigram"], -np.log(unigram))
    np.testing.assert_allclose(found["previous 10"], -np.log(previous))
    np.testing.assert_allclose(found["nearest 10"], -np.log(nearest))


def test_a_trained_encoder_is_below_what_needs_no_training(data, tmp_path):
    untrained, trained = tmp_path / "untrained", tmp_path / "trained"
    train_encoder(data.tokens, untrained, config=stage_of(n_steps=0))
    train_encoder(data.tokens, trained, config=stage_of(n_steps=500))
    tables = {}
    for folder in (untrained, trained):
        frame = evaluate_encoder(folder, data.cohort, data.tokens)
        assert frame["predictor"].to_list()[:3] == ["encoder", "unigram", "bigram"]
        tables[folder.name] = {row["predictor"]: row for row in frame.iter_rows(named=True)}
    first, last = tables["untrained"], tables["trained"]
    assert last["encoder"]["n_patients"] == 2
    # Of 4 + 2 windows, three quarters of what is visible: the same tokens for all of them.
    n_visible = (~data.tokens.hidden(data.tokens.rows("held_out"))).sum(1)
    assert last["encoder"]["n_tokens"] == np.ceil(0.75 * n_visible).sum()
    assert last["unigram"] == first["unigram"]
    assert last["bigram"]["cross_entropy"] < last["unigram"]["cross_entropy"]
    assert last["bigram"]["share"] == 0
    assert first["encoder"]["share"] < 0
    assert last["encoder"]["cross_entropy"] < last["unigram"]["cross_entropy"]
    assert last["encoder"]["se"] > 0


def test_masks_do_not_depend_on_which_windows_are_asked(data, trained):
    sources = {"features": data.features}
    frame = evaluate_encoder(trained, data.cohort, data.tokens, split="probe", **sources)
    again = evaluate_encoder(
        trained, data.cohort, data.tokens, split="probe", n_windows=1, **sources
    )
    assert frame.equals(again)
    assert frame["se"].is_null().all()  # of one patient
    with pytest.raises(OpenclefError, match="no window"):
        evaluate_encoder(trained, data.cohort, data.tokens, split="nobody", **sources)


@pytest.fixture(scope="module")
def of_vectors(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("vectors") / "encoder"
    train_encoder(data.tokens, out, config=stage_of(codes="vectors"))
    return out


def test_codes_that_are_vectors_start_at_the_unigram_and_learn(data, of_vectors, tmp_path):
    start = tmp_path / "start"
    train_encoder(data.tokens, start, config=stage_of(0, codes="vectors"))
    first, last = (
        dict(evaluate_encoder(x, data.cohort, data.tokens)[["predictor", "cross_entropy"]].rows())
        for x in (start, of_vectors)
    )
    assert first["encoder"] == pytest.approx(first["unigram"], abs=1e-5)
    assert last["encoder"] < first["encoder"] - 0.002


def test_a_start_does_not_depend_on_what_is_predicted(data, tmp_path):
    """The untrained control has no heads for latents and patches, and the same encoder."""
    losses = {"codes": EncoderLossConfig(), "both": EncoderLossConfig(patch_weight=1.0)}
    starts = []
    for name, loss in losses.items():
        config = stage_of(0, codes="vectors", inputs="codes+patches", loss=loss)
        train_encoder(data.tokens, tmp_path / name, config=config, features=data.features)
        starts.append(load_encoder(tmp_path / name).state_dict())
    for name, value in starts[0].items():
        assert torch.equal(value, starts[1][name]), name


def test_vectors_of_another_width_than_expected_are_refused(data, tmp_path):
    config = stage_of(codes="vectors")
    config = changed(config, model=changed(config.model, latent_dim=4))
    with pytest.raises(ArtefactError, match=r"code vectors of 3 numbers; .* expects 4 \(latent"):
        train_encoder(data.tokens, tmp_path / "e", config=config)
    assert not (tmp_path / "e").exists()


def test_as_many_tokens_are_left_out_as_in_training(data, tmp_path, monkeypatch):
    seen = []

    def watched(hidden, rows, *, ratio, drop_ratio, seed):
        seen.append(drop_ratio)
        return mask_rows(hidden, rows, ratio=ratio, drop_ratio=drop_ratio, seed=seed)

    monkeypatch.setattr(evaluate, "mask_rows", watched)
    loss = EncoderLossConfig(masking=MaskingConfig(drop_ratio=0.3))
    train_encoder(data.tokens, tmp_path / "e", config=stage_of(0, loss=loss))
    evaluate_encoder(tmp_path / "e", data.cohort, data.tokens)
    assert set(seen) == {0.3}


def test_patches_are_embedded_without_an_encoder(data, tmp_path):
    embed_patches(data.tokens, data.features, tmp_path / "p", n_directions=3)
    found = pl.read_parquet(tmp_path / "p" / "embeddings.parquet").sort("session_id", "window")
    assert set(found["session_id"]) == {"S2", "S3", "S4", "S5", "S6", "S7"}
    for session, window, vector in found[["session_id", "window", "vector"]].iter_rows():
        if session == "S3":  # without tokens
            assert np.isnan(vector).all()
            continue
        rows = np.flatnonzero(
            (data.tokens.session_id == session).to_numpy() & (data.tokens.window == window)
        )
        shown = ~data.tokens.hidden(rows).reshape(4, 8)
        x = data.features.patches[rows[0]].astype(float).reshape(4, 8, 4)[..., :3].clip(-4, 4)
        means = [x[line][shown[line]].mean(0) for line in range(4)]
        spreads = [x[line][shown[line]].std(0) for line in range(4)]
        np.testing.assert_allclose(vector, np.ravel([means, spreads]), atol=2e-3)
