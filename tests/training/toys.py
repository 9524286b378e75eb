"""A small objective that does all that a stage may do, shared by the tests and two processes."""

import torch
from torch import nn

from openclef import artefact
from openclef.training import distributed
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


def load_batch(indices, rngs):
    noise = [torch.from_numpy(rng.normal(0, 0.05, WIDTH)).float() for rng in rngs]
    return {
        "x": X[indices] + torch.stack(noise),
        "hidden": HIDDEN[indices],
        "is_rare": IS_RARE[indices],
    }


def whole(start, stop):
    rows = slice(start, stop)
    return {"x": X[rows], "hidden": HIDDEN[rows], "is_rare": IS_RARE[rows]}


VALIDATION = [whole(0, 8), whole(8, 16), whole(16, 19)]


def run(
    folder, *, objective=None, load=load_batch, stop_at=None, config=CONFIG, validation=VALIDATION
):
    """Train in `folder`; with `stop_at` the loader is interrupted after so many batches."""
    calls = 0

    def load_until(indices, rngs):
        nonlocal calls
        calls += 1
        if stop_at is not None and calls > stop_at:
            raise KeyboardInterrupt
        return load(indices, rngs)

    stage = artefact.begin(folder, kind="toy", config={}, inputs={})
    objective = MaskedLine() if objective is None else objective
    weights = fit(
        objective, n_items=N_ITEMS, load_batch=load_until, validation=validation, config=config,
        artefact=stage, label="toy",
    )  # fmt: skip
    return stage, weights


def rows(stage, *splits):
    """Metrics without what depends on the clock."""
    wanted = splits or ("train", "tuning")
    kept = [row for row in stage.metrics() if row["split"] in wanted]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in kept]
