"""Small objectives that do all that a stage may do, shared by the tests and their processes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as twice

from openclef import artefact
from openclef.training import checkpoint, distributed
from openclef.training.loop import TrainConfig, fit
from openclef.training.optim import OptimConfig

N_ITEMS, WIDTH = 26, 6
_RNG = torch.Generator().manual_seed(5)
X = torch.randn(N_ITEMS, WIDTH, generator=_RNG)
# Items differ in how much of them counts, so a mean of means is not the mean.
HIDDEN = torch.arange(WIDTH) >= 1 + torch.arange(N_ITEMS)[:, None] % WIDTH
IS_RARE = torch.arange(N_ITEMS) % 7 == 0
CONFIG = TrainConfig(
    n_steps=20, batch_size=8, validate_every=5, checkpoint_every=6, optim=OptimConfig(lr=0.02)
)
SHORT = CONFIG.model_copy(update={"n_steps": 5})
# A rate that does not depend on the number of steps.
STEADY = OptimConfig(lr=0.02, warmup_fraction=0.0, ema_decay=0.0)


def changed(config, **changes):
    return config.model_copy(update=changes)


class MaskedLine(nn.Module):
    """Fits 2x where it is not hidden, by masked means over the items of all processes.

    `rare` is used by few items, `late` in later steps, `adversary` is clipped apart.
    """

    def __init__(self, *, late_from=4):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.rare = nn.Linear(WIDTH, WIDTH)
        self.late = nn.Linear(WIDTH, WIDTH)
        self.adversary = nn.Linear(WIDTH, 1)
        self.late_from = late_from
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("n_seen", torch.tensor(0))
        self.register_buffer("is_late", torch.tensor(False))

    def parameter_groups(self):
        adversary = list(self.adversary.parameters())
        others = [p for name, p in self.named_parameters() if not name.startswith("adversary")]
        return [others, adversary]

    def losses(self, batch, rng):
        x, shown = batch["x"], (~batch["hidden"]).float()
        n = distributed.world_size()
        n_items = distributed.all_sum(torch.tensor(len(x)))
        if self.training:
            noise = 0.1 * torch.randn(n * len(x), WIDTH, generator=rng)
            x = x + noise[distributed.slice_of_rank(n * len(x))]
            self.n_seen += n_items
            self.mean.lerp_(distributed.all_sum(x.sum(0)) / n_items, 0.1)
            self.is_late.fill_(bool(self.n_seen > self.late_from * 8))
        made = self.layer(x - self.mean)
        if batch["is_rare"].any():
            made = made + torch.where(batch["is_rare"][:, None], self.rare(x), 0.0)
        if self.is_late:
            made = made + self.late(x)
        count = distributed.all_sum(shown.sum())
        error = n * ((made - 2 * batch["x"]).square() * shown).sum() / count
        game = n * 10 * (self.adversary(x) - 1).square().sum() / n_items
        return {"loss": error + game, "error": error, "game": game}


class Line(nn.Module):
    """Fits y = 2x with dropout and noise from the rng: everything random that a stage may use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def losses(self, batch, rng):
        noise = 0.01 * torch.randn(batch["x"].shape, generator=rng)
        if self.training:
            self.n_seen += len(batch["x"])
        error = self.layer(self.dropout(batch["x"]) + noise) - 2 * batch["x"]
        return {"loss": error.square().mean()}


class Block(nn.Module):
    """Attention and a GELU layer over the `WIDTH` places of an item."""

    def __init__(self, width, dropout):
        super().__init__()
        self.dropout = dropout
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.mlp(F.dropout(h, self.dropout, self.training))


class SmallTransformer(nn.Module):
    """Fits 2x by a mean over items alike, which any division of a batch leaves as it is."""

    tokens_per_item, flops_per_item = WIDTH, 1e4

    def __init__(self, *, dropout=0.0, checkpoint_activations=False):
        super().__init__()
        torch.manual_seed(0)
        self.inputs, self.outputs = nn.Linear(1, 8), nn.Linear(8, 1)
        self.positions = nn.Parameter(torch.randn(WIDTH, 8))
        self.blocks = nn.ModuleList(Block(8, dropout) for _ in range(2))
        self.checkpoint_activations = checkpoint_activations
        self.register_buffer("n_seen", torch.tensor(0))

    def shard_units(self):
        return list(self.blocks)

    compile_units = shard_units

    def losses(self, batch, rng):
        if self.training:
            self.n_seen += distributed.all_sum(torch.tensor(len(batch["x"])))
        x = self.inputs(batch["x"][..., None]) + self.positions
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                x = twice(block, x, use_reentrant=False)
            else:
                x = block(x)
        error = (self.outputs(x)[..., 0] - 2 * batch["x"]).square()
        return {"loss": error.mean(), "absolute": error.detach().sqrt().mean()}


def load_batch(indices, rngs):
    noise = [torch.from_numpy(rng.normal(0, 0.05, WIDTH)).float() for rng in rngs]
    return {
        "x": X[indices] + torch.stack(noise),
        "hidden": HIDDEN[indices],
        "is_rare": IS_RARE[indices],
    }


def load_with_a_nan(indices, rngs):
    """`load_batch` with item 3 broken."""
    batch = load_batch(indices, rngs)
    batch["x"][torch.from_numpy(indices == 3)] = float("nan")
    return batch


def whole(start, stop):
    rows = slice(start, stop)
    return {"x": X[rows], "hidden": HIDDEN[rows], "is_rare": IS_RARE[rows]}


VALIDATION = [whole(0, 8), whole(8, 16), whole(16, 19)]


def run(
    folder, *, objective=None, n_items=N_ITEMS, load=load_batch, stop_at=None, at_stop=None,
    config=CONFIG, validation=VALIDATION,
):  # fmt: skip
    """Train in `folder`; with `stop_at` the loader is interrupted after so many batches, or
    `at_stop` is called there.
    """
    calls = 0

    def load_until(indices, rngs):
        nonlocal calls
        calls += 1
        if stop_at is not None and at_stop is None and calls > stop_at:
            raise KeyboardInterrupt
        if at_stop is not None and calls == stop_at:
            at_stop()
        return load(indices, rngs)

    stage = artefact.begin(folder, kind="toy", config={}, inputs={})
    objective = MaskedLine() if objective is None else objective
    weights = fit(
        objective, n_items=n_items, load_batch=load_until, validation=validation, config=config,
        artefact=stage, label="toy",
    )  # fmt: skip
    return stage, weights


PARTS = changed(CONFIG, accumulate=2)
SHARDED = changed(CONFIG, sharding="full")


def line_of_shards(config=SHARDED):
    """`MaskedLine` so that every step uses every part, on some process at least.

    With shards what a step leaves out has no gradient of zero instead of none.
    """
    return {
        "objective": MaskedLine(late_from=0),
        "config": changed(config, batch_size=18, max_skipped=20),
    }


_OF_THE_CLOCK = {"seconds", "wait_s", "items_per_s", "tokens_per_s", "peak_share"}


def rows(stage, *splits):
    """Metrics without what depends on the clock."""
    wanted = splits or ("train", "tuning")
    kept = [row for row in stage.metrics() if row["split"] in wanted]
    return [{k: value for k, value in row.items() if k not in _OF_THE_CLOCK} for row in kept]


def assert_same(ours, theirs):
    """Bit for bit: weights, and every row of metrics but for the clock and resumptions."""
    (our_stage, our_weights), (their_stage, their_weights) = ours, theirs
    assert our_weights.keys() == their_weights.keys()
    assert all(torch.equal(our_weights[name], value) for name, value in their_weights.items())
    splits = ("train", "skipped", "tuning", "end")
    assert rows(our_stage, *splits) == rows(their_stage, *splits)


def kept(out, name):
    return [checkpoint.load_tensors(out / f"{name}.{rank}.safetensors")[0] for rank in (0, 1)]


def metrics(folder):
    return rows(artefact.Artefact(folder, "toy", {}, {}))


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=0, atol=1e-4, msg=lambda m, n=name: n + m
        )


def assert_same_rows(ours, theirs):
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-4), mine["step"]
