"""Attention pooling: what it does to a set, what it learns, and whose labels it reads."""

import json

import numpy as np
import polars as pl
import pytest
import test_stages
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from openclef import artefact
from openclef.benchmark.embeddings import load_models
from openclef.cli import app
from openclef.encoder import train_pool
from openclef.encoder.attention_pool import AttentionPool, PoolConfig, load_pool
from openclef.encoder.embed import attend_sessions, embed_tokens
from openclef.encoder.load import load_encoder
from openclef.encoder.pooling import encode_items, pool
from openclef.encoder.rows import row_means
from openclef.encoder.train import train_encoder
from openclef.encoder.train_pool import PoolObjective, PoolStage, train_attention_pool
from openclef.encoder.windows import EncoderWindows
from openclef.errors import ArtefactError, OpenclefError
from openclef.recipes.recipe import changed
from openclef.training.loop import TrainConfig, fit
from openclef.training.optim import OptimConfig

data = test_stages.data

# What sessions say to tasks; "S0" and "S1" are of train patients, "S2" of a tuning patient.
LABELS = {
    "spikes": ("finding", {"S0": 1, "S1": 0, "S2": 1, "S4": 0, "S7": 1}),
    "slowing": ("finding", {"S0": 0, "S1": 1, "S2": -1, "S4": 1}),
    "seizure": ("finding", {"S0": 1, "S1": -1, "S2": 0, "S4": 1}),  # no negative train patient
    "epilepsy": ("disease", {"S0": 1, "S1": 0, "S2": 0}),
}


def write_labels(cohort, labels=LABELS):
    rows = [
        (name, task, category, label)
        for task, (category, of_sessions) in labels.items()
        for name, label in of_sessions.items()
    ]
    schema = {"session_id": pl.String, "task": pl.String, "category": pl.String, "label": pl.Int8}
    frame = pl.DataFrame(rows, schema, orient="row")
    frame.write_parquet(cohort.folder / "labels.parquet")


@pytest.fixture(scope="module")
def encoder(data, tmp_path_factory):
    write_labels(data.cohort)
    out = tmp_path_factory.mktemp("encoder") / "encoder"
    train_encoder(data.tokens, out, config=test_stages.stage_of(n_steps=5))
    return out


def stage_of(n_steps=12, **model):
    return PoolStage(
        model=PoolConfig(attention_width=4, **model), min_patients=1, max_windows=6,
        train=TrainConfig(
            n_steps=n_steps, batch_size=2, validate_every=4, checkpoint_every=4,
            optim=OptimConfig(lr=1e-2),
        ),
    )  # fmt: skip


USES = [{"over": "tokens"}, {"over": "rows", "layer": 0}, {"over": "windows", "pooling": "rows"}]


@pytest.fixture(scope="module")
def pools(data, encoder, tmp_path_factory):
    """Folders by what is pooled."""
    root = tmp_path_factory.mktemp("pools")
    for use in USES:
        out = root / use["over"]
        train_attention_pool(data.cohort, data.tokens, encoder, out, config=stage_of(**use))
    return root


def random_pool(dim=6, seed=0):
    """Nothing of it is where it starts."""
    torch.manual_seed(seed)
    attention = AttentionPool(dim, 5)
    torch.nn.init.normal_(attention.score.weight, std=3)
    attention.fit_scale([(2 * torch.randn(4, 9, dim) + 1, torch.zeros(4, 9, dtype=torch.bool))])
    return attention


def random_sets(seed=1):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 11, 6, generator=rng)
    hidden = torch.rand(3, 11, generator=rng) < 0.4
    return x, hidden


# --- a set ----------------------------------------------------------------------------------------


def test_it_is_what_the_paper_writes():
    attention, (x, hidden) = random_pool(), random_sets()
    for row in range(3):
        seen = x[row, ~hidden[row]].double()
        z = (seen - attention.centre.double()) / attention.scale.double()
        v, u, w = attention.value, attention.gate, attention.score
        scores = (
            torch.tanh(z @ v.weight.T.double() + v.bias.double())
            * torch.sigmoid(z @ u.weight.T.double() + u.bias.double())
        ) @ w.weight[0].double()
        shares = scores.exp() / scores.exp().sum()
        found = attention(x, hidden)[row].double()
        torch.testing.assert_close(found, shares @ seen, rtol=1e-5, atol=1e-5)
        assert shares.max() > 1.5 / len(seen)  # not the mean by chance


def test_the_order_does_not_matter():
    attention, (x, hidden) = random_pool(), random_sets()
    order = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    again = attention(x[:, order], hidden[:, order])
    torch.testing.assert_close(again, attention(x, hidden), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blank", [1e6, float("nan"), float("inf")])
def test_hidden_items_and_padding_do_not_matter(blank):
    attention, (x, hidden) = random_pool(), random_sets()
    padded = torch.cat([x.masked_fill(hidden[..., None], blank), torch.full((3, 7, 6), blank)], 1)
    more = torch.cat([hidden, torch.ones(3, 7, dtype=torch.bool)], 1)
    torch.testing.assert_close(attention(padded, more), attention(x, hidden), rtol=1e-5, atol=1e-6)
    padded.requires_grad_()
    attention(padded, more).sum().backward()
    assert padded.grad.isfinite().all()
    assert (padded.grad[more] == 0).all()


def test_a_set_all_hidden_gives_zeros():
    attention, (x, hidden) = random_pool(), random_sets()
    hidden[1] = True
    found = attention(x, hidden)
    assert (found[1] == 0).all()
    assert (found[0] != 0).all()


def test_it_starts_as_the_mean_of_what_is_visible():
    x, hidden = random_sets()
    kept = torch.arange(11).expand(3, 11)
    mean = pool(x, kept, hidden, n_rows=1, n_columns=11, how="mean")
    torch.testing.assert_close(AttentionPool(6, 5)(x, hidden), mean, rtol=1e-5, atol=1e-6)


def test_the_spread_is_of_visible_items():
    x, hidden = random_sets()
    attention = AttentionPool(6, 5)
    attention.fit_scale([(x[:2], hidden[:2]), (x[2:], hidden[2:])])
    z = attention.standardise(x[~hidden])
    torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(6))
    attention.fit_scale([(x, torch.ones_like(hidden))])
    assert torch.equal(attention.standardise(x[~hidden]), z)


def test_rows_without_a_visible_token_are_hidden():
    x, hidden = random_sets()
    kept = torch.arange(11).expand(3, 11)  # in four rows, of three columns
    hidden[0, 3:6] = True
    hidden[0, 0], hidden[0, 1:3] = False, True
    means, none_BR = row_means(x, kept, hidden, n_rows=4, n_columns=3)
    assert none_BR[0, :2].tolist() == [False, True]
    assert torch.equal(means[0, 0], x[0, 0])
    expected = [[bool(of_row.all()) for of_row in row.split(3)] for row in hidden]
    assert none_BR.tolist() == expected


@pytest.mark.parametrize("wrong", [{"over": "windows"}, {"over": "rows", "pooling": "mean"}])
def test_only_windows_have_a_pooling(wrong):
    with pytest.raises(ValidationError, match="vectors of windows need one"):
        PoolConfig(**wrong)


# --- what it learns -------------------------------------------------------------------------------


def planted(n, rng, n_items=64, dim=8):
    """One item, marked in the first direction, has the label's sign in the second, where all
    others have noise: their mean drowns it.
    """
    x = rng.standard_normal((n, n_items, dim)).astype(np.float32)
    labels, at = rng.integers(2, size=n), rng.integers(n_items, size=n)
    x[np.arange(n), at, 0] = 5
    x[np.arange(n), at, 1] = 2 * labels - 1
    return x, labels


def test_it_finds_the_one_item_that_tells_where_the_mean_cannot(tmp_path):
    rng = np.random.default_rng(0)
    (x, labels), (x_tuning, y_tuning), (x_new, y_new) = (planted(n, rng) for n in (512, 128, 512))

    def batch(x, labels):
        return {
            "x": torch.from_numpy(x), "hidden": torch.zeros(x.shape[:2], dtype=torch.bool),
            "labels": torch.from_numpy(labels[:, None].astype(np.float32)),
        }  # fmt: skip

    torch.manual_seed(0)
    objective = PoolObjective(8, 8, torch.tensor([0.5]))
    objective.pool.fit_scale([(batch(x, labels)["x"], batch(x, labels)["hidden"])])
    weights = fit(
        objective, n_items=512, load_batch=lambda rows, _: batch(x[rows], labels[rows]),
        validation=[batch(x_tuning, y_tuning)],
        config=TrainConfig(
            n_steps=150, batch_size=32, validate_every=25, checkpoint_every=150,
            optim=OptimConfig(lr=2e-2),
        ),
        artefact=artefact.begin(tmp_path / "p", kind="pool", config={}, inputs={}),
        label="planted",
    )  # fmt: skip
    objective.load_state_dict(weights)
    new = batch(x_new, y_new)
    with torch.no_grad():
        learned = roc_auc_score(y_new, objective.logits(new["x"], new["hidden"])[:, 0])
    by_mean = LogisticRegression().fit(x.mean(1), labels).decision_function(x_new.mean(1))
    assert roc_auc_score(y_new, by_mean) < 0.65
    assert learned > 0.95


def test_unknown_labels_and_empty_sets_are_left_out_of_the_loss():
    x, hidden = random_sets()
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0], [1.0, 0.0]])
    hidden[1] = True
    torch.manual_seed(0)
    objective = PoolObjective(6, 5, torch.tensor([0.2, 0.5]))
    torch.testing.assert_close(objective.head.bias.sigmoid(), torch.tensor([0.2, 0.5]))
    loss = objective.losses({"x": x, "hidden": hidden, "labels": labels}, torch.Generator())["loss"]
    logits = objective.logits(x, hidden)
    said = torch.stack([logits[0, 0], logits[2, 0], -logits[2, 1]])
    torch.testing.assert_close(loss, torch.nn.functional.softplus(-said).mean())
    loss.backward()
    nothing = {"x": x, "hidden": torch.ones_like(hidden), "labels": labels}
    assert objective.losses(nothing, torch.Generator())["loss"] == 0


# --- the stage ------------------------------------------------------------------------------------


def test_tasks_need_train_patients_of_both_classes(data, encoder, pools, tmp_path):
    trained = load_pool(pools / "tokens")
    assert trained.tasks == ["slowing", "spikes"]
    assert trained.attention.centre.shape == (16,)
    assert load_pool(pools / "windows").attention.centre.shape == (64,)
    few = changed(stage_of(), min_patients=2)
    with pytest.raises(OpenclefError, match="has 2 train patients of either class"):
        train_attention_pool(data.cohort, data.tokens, encoder, tmp_path / "p", config=few)


def test_the_encoder_stays_and_the_head_is_thrown_away(data, encoder, pools):
    for use in USES:
        trained = load_pool(pools / use["over"])
        assert trained.attention.score.weight.abs().sum() > 0  # it has learned
        names = trained.attention.state_dict().keys()
        assert not [name for name in names if "head" in name or "encoder" in name]
        assert sorted(p.name for p in (pools / use["over"]).glob("*.safetensors")) == [
            "pool.safetensors"
        ]
        assert not (pools / use["over"] / "parts").exists()


@pytest.mark.parametrize("use", USES, ids=lambda use: use["over"])
def test_labels_of_no_other_patient_are_read(data, encoder, pools, use, tmp_path):
    changed_labels = {
        task: (category, {name: label if name in ("S0", "S1", "S2") else 1 - abs(label)
                          for name, label in of_sessions.items()})
        for task, (category, of_sessions) in LABELS.items()
    }  # fmt: skip
    assert changed_labels != LABELS
    write_labels(data.cohort, changed_labels)
    try:
        out = tmp_path / "p"
        train_attention_pool(data.cohort, data.tokens, encoder, out, config=stage_of(**use))
    finally:
        write_labels(data.cohort)
    ours, theirs = (folder / "pool.safetensors" for folder in (out, pools / use["over"]))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_tuning_patients_labels_choose_but_do_not_train(data, encoder, pools, tmp_path):
    flipped = {**LABELS, "spikes": ("finding", {**LABELS["spikes"][1], "S2": 0})}
    write_labels(data.cohort, flipped)
    try:
        train_attention_pool(data.cohort, data.tokens, encoder, tmp_path / "p", config=stage_of())
    finally:
        write_labels(data.cohort)

    def losses(folder, split):
        rows = artefact.load(folder, kind="pool").metrics()
        return [row["loss"] for row in rows if row["split"] == split]

    assert losses(tmp_path / "p", "train") == losses(pools / "tokens", "train")
    assert losses(tmp_path / "p", "tuning") != losses(pools / "tokens", "tuning")


@pytest.mark.parametrize("use", USES, ids=lambda use: use["over"])
def test_interrupted_it_goes_on_to_the_same_weights(
    data, encoder, pools, use, tmp_path, monkeypatch
):
    calls = []

    def broken(reader):
        def read(sets):
            calls.append(len(sets))
            if len(calls) == 10:
                raise RuntimeError("killed")
            return reader(sets)

        return read

    make = {"windows": "_sessions_reader"}.get(use["over"], "_windows_reader")
    original = getattr(train_pool, make)
    arguments = (data.cohort, data.tokens, encoder, tmp_path / "p")
    with monkeypatch.context() as patch:
        patch.setattr(train_pool, make, lambda *given: broken(original(*given)))
        with pytest.raises(RuntimeError, match="killed"):
            train_attention_pool(*arguments, config=stage_of(**use))
    train_attention_pool(*arguments, config=stage_of(**use))
    rows = artefact.load(tmp_path / "p", kind="pool").metrics()
    assert [row["step"] for row in rows if row["split"] == "run"] == [0, 4]
    ours, theirs = (folder / "pool.safetensors" for folder in (tmp_path / "p", pools / use["over"]))
    assert ours.read_bytes() == theirs.read_bytes()


# --- its uses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("over", "layer"), [("tokens", -1), ("rows", 0)])
def test_windows_are_embedded_by_it(data, encoder, pools, over, layer, tmp_path):
    out = tmp_path / "e"
    stage = embed_tokens(
        encoder, data.tokens, out, model="m", pooling="attention", layer=layer,
        pool_folder=pools / over,
    )  # fmt: skip
    assert stage.config["labels_seen"] == ["slowing", "spikes"]
    assert stage.inputs["pool"] == load_pool(pools / over).artefact.hash
    windows = pl.read_parquet(out / "embeddings.parquet")
    vectors = np.stack(windows["vector"].to_list())
    assert vectors.shape == (12, 16)
    row = int(data.tokens.rows("held_out")[0])
    batch = EncoderWindows(data.tokens, []).batch(np.array([row]))
    with torch.no_grad():
        x, hidden = encode_items(load_encoder(encoder), batch, over=over, layer=layer)
        expected = load_pool(pools / over).attention(x, hidden)[0]
    assert x.shape[1] == (4 if over == "rows" else (~batch["hidden"]).sum())
    at = windows["session_id"].to_list().index("S4")
    np.testing.assert_allclose(vectors[at], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(vectors[at], x.mean(1)[0], rtol=1e-3)


def test_sessions_get_a_second_vector_of_the_aggregator(data, encoder, pools, tmp_path):
    given = {"model": "m", "pooling": "rows"}
    embed_tokens(encoder, data.tokens, tmp_path / "plain", **given)
    out = tmp_path / "e"
    stage = embed_tokens(
        encoder, data.tokens, out, aggregator_folder=pools / "windows", **given
    )  # fmt: skip
    assert "labels_seen" not in stage.config  # of a window's vector
    assert stage.config["labels_seen_by_aggregator"] == ["slowing", "spikes"]
    name = "embeddings.parquet"
    plain, windows = (pl.read_parquet(folder / name) for folder in (tmp_path / "plain", out))
    assert windows.equals(plain)
    sessions = pl.read_parquet(out / "sessions.parquet")
    assert sessions.drop("trained").equals(pl.read_parquet(tmp_path / "plain" / "sessions.parquet"))
    vectors = np.stack(windows.filter(pl.col("session_id") == "S4")["vector"].to_list())
    vectors = vectors.astype(np.float32)
    attention = load_pool(pools / "windows").attention
    with torch.no_grad():
        expected = attention(torch.from_numpy(vectors)[None], torch.zeros(1, 3, dtype=torch.bool))
    at = sessions["session_id"].to_list().index("S4")
    np.testing.assert_allclose(sessions["trained"][at].to_numpy(), expected[0], rtol=1e-5)
    one = sessions["session_id"].to_list().index("S5")  # of a single window
    np.testing.assert_allclose(sessions["trained"][one], sessions["vector"][one], rtol=1e-5)
    # A benchmark reads the mean of the one and what the aggregator made of the other.
    of_cohort = data.cohort.sessions["session_id"].to_list()
    (mean,), (trained,) = (load_models([x], data.cohort) for x in (tmp_path / "plain", out))
    assert (mean.name, trained.name) == ("m", "m (saw labels)")
    expected_mean = vectors.mean(0)
    np.testing.assert_allclose(mean.vectors[of_cohort.index("S4")], expected_mean, rtol=1e-5)
    np.testing.assert_allclose(trained.vectors[of_cohort.index("S4")], expected[0], rtol=1e-5)
    assert np.isnan(trained.vectors).all(1).tolist() == np.isnan(mean.vectors).all(1).tolist()


def test_an_aggregator_leaves_out_windows_that_show_nothing(pools):
    pool, rng = load_pool(pools / "windows"), np.random.default_rng(0)
    vectors = rng.normal(size=(3, pool.attention.value.in_features)).astype(np.float32)
    shown = attend_sessions(pool, pl.Series(["b", "b"]), vectors[:2])
    vectors[2] = np.nan
    names = pl.Series(["b", "b", "b"])
    assert attend_sessions(pool, names, vectors)[0].equals(shown[0])
    read = train_pool._sessions_reader(np.arange(3), vectors)
    x, hidden = read([np.arange(3)])
    assert x.isfinite().all()
    assert hidden.tolist() == [[False, False, True]]


def test_an_aggregator_of_attended_windows_needs_their_pool(data, encoder, pools, tmp_path):
    config, out = stage_of(n_steps=2, over="windows", pooling="attention"), tmp_path / "p"
    with pytest.raises(OpenclefError, match="give the folder of a trained pool"):
        train_attention_pool(data.cohort, data.tokens, encoder, out, config=config)
    train_attention_pool(
        data.cohort, data.tokens, encoder, out, config=config, pool_folder=pools / "tokens"
    )
    stage = embed_tokens(
        encoder, data.tokens, tmp_path / "e", model="m", pooling="attention",
        pool_folder=pools / "tokens", aggregator_folder=out,
    )  # fmt: skip
    assert stage.inputs.keys() == {"cohort", "encoder", "pool", "aggregator"}


def test_what_does_not_belong_together_is_refused(data, encoder, pools, tmp_path):
    def embed(folder=encoder, **given):
        embed_tokens(folder, data.tokens, tmp_path / "e", model="m", **given)

    tokens, windows = pools / "tokens", pools / "windows"
    with pytest.raises(OpenclefError, match="give the folder of a trained pool"):
        embed(pooling="attention")
    with pytest.raises(OpenclefError, match="which only pooling 'attention' reads"):
        embed(pooling="mean", pool_folder=tokens)
    with pytest.raises(OpenclefError, match=r"layer 0: .* was trained on layer -1"):
        embed(pooling="attention", pool_folder=tokens, layer=0)
    with pytest.raises(OpenclefError, match="give it as --aggregator"):
        embed(pooling="attention", pool_folder=windows)
    with pytest.raises(OpenclefError, match="give it as --pool"):
        embed(pooling="mean", aggregator_folder=tokens)
    with pytest.raises(OpenclefError, match="was trained on windows of 'rows'"):
        embed(pooling="mean", aggregator_folder=windows)
    other = tmp_path / "other"
    train_encoder(data.tokens, other, config=test_stages.stage_of(n_steps=0))
    with pytest.raises(ArtefactError, match="trained on another encoder"):
        embed(other, pooling="attention", pool_folder=tokens)
    assert not (tmp_path / "e").exists()
    identity = json.loads((tokens / "config.json").read_text())
    assert identity["kind"] == "pool"


def test_a_cohort_without_labels_is_told(data, encoder, tmp_path):
    path = data.cohort.folder / "labels.parquet"
    path.unlink()
    try:
        with pytest.raises(OpenclefError, match="trained with labels"):
            train_attention_pool(
                data.cohort, data.tokens, encoder, tmp_path / "p", config=stage_of()
            )
    finally:
        write_labels(data.cohort)


# --- the command line -----------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_pools_are_trained_and_used_from_the_command_line(data, encoder, tmp_path):
    cohort, tokens = data.cohort.folder, data.tokens.artefact.folder
    pool_folder, aggregator, out = (tmp_path / name for name in ("pool", "aggregator", "e"))
    train = ("train", "pool", cohort, tokens, encoder)
    few = ("--min-patients", 1, "--seed", 3)
    of_rows = ("--over", "rows", "--layer", 0)
    assert run(*train, pool_folder, *of_rows, *few).exit_code == 0
    of_windows = ("--over", "windows", "--pooling", "attention", "--pool", pool_folder)
    assert run(*train, aggregator, *of_windows, "--layer", 0, *few).exit_code == 0
    assert load_pool(aggregator).artefact.config["train"]["seed"] == 3
    done = run(
        "embed", cohort, "--model", encoder, "--tokens", tokens, "--pool", pool_folder,
        "--aggregator", aggregator, "--layer", 0, "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    stage = artefact.load(out, kind="embeddings")
    assert (stage.config["model"], stage.config["pooling"]) == ("clef_labelled_pool", "attention")
    assert "trained" in pl.read_parquet(out / "sessions.parquet").columns


def test_fields_of_an_encoder_are_set_from_the_command_line(data, tmp_path):
    cohort, tokens = data.cohort.folder, data.tokens.artefact.folder
    command = ("train", "encoder", cohort, tokens)
    given = ("--recipe", "tiny", "--seed", 3, "--set", "train.n_steps=2")
    done = run(*command, tmp_path / "e", *given, "--set", "train.accumulate=2")
    assert done.exit_code == 0, done.exception
    train = artefact.load(tmp_path / "e", kind="encoder").config["train"]
    assert (train["seed"], train["n_steps"], train["accumulate"]) == (3, 2, 2)
    error = run(*command, tmp_path / "f", *given, "--set", "train.acumulate=2").exception
    assert isinstance(error, OpenclefError)
    assert "did you mean 'accumulate'" in str(error)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--over", "token"], "did you mean 'tokens'"),
        (["--over", "windows", "--pooling", "row"], "did you mean 'rows'"),
        (["--pooling", "mean"], "only --over windows has one"),
    ],
)
def test_wrong_options_of_training_are_told(data, encoder, tmp_path, options, said):
    folders = (data.cohort.folder, data.tokens.artefact.folder, encoder, tmp_path / "p")
    error = run("train", "pool", *folders, *options).exception
    assert isinstance(error, OpenclefError)
    assert said in str(error)
    assert not (tmp_path / "p").exists()


def test_what_only_tokens_have_is_refused_without_them(data, encoder, tmp_path):
    cohort, out = data.cohort.folder, tmp_path / "e"
    given = ("embed", cohort, "--model", encoder, "--out", out)
    for option in ("--pool", "--aggregator", "--features", "--pooling", "--name"):
        error = run(*given, option, "x").exception
        assert isinstance(error, OpenclefError)
        assert f"{option} x: give --tokens too" in str(error)
    tokens = ("--tokens", data.tokens.artefact.folder)
    assert "did you mean 'mean'" in str(run(*given, *tokens, "--pooling", "men").exception)
    assert "tokens have none" in str(run(*given, *tokens, "--unit", "uV").exception)
    assert not out.exists()
