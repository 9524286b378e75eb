from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import two_encoders

from openclef.artefact import Artefact
from openclef.encoder.masking import MaskingConfig, draw_masking
from openclef.encoder.objective import EncoderLossConfig, MaskedReconstruction
from openclef.encoder.transformer import EncoderConfig
from openclef.errors import OpenclefError
from openclef.recipes.recipe import changed
from openclef.training import checkpoint

TINY = EncoderConfig(
    n_codes=16, grid=(1, 4, 8), width=16, n_heads=2, n_encoder_layers=2, n_decoder_layers=1,
    dropout=0.0, patch_dim=4, latent_dim=6,
)  # fmt: skip
BOTH = EncoderLossConfig(latent_weight=0.5, patch_weight=2.0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(n=4):
    ids = torch.randint(16, (n, 32), generator=rng())
    return {
        "ids": ids,
        "hidden": (torch.arange(32) >= 26).expand(n, -1),
        "latents": torch.randn(n, 32, 6, generator=rng(1)),
        "patches": torch.randn(n, 32, 4, generator=rng(2)),
    }


def made(loss, **changes):
    torch.manual_seed(0)
    return MaskedReconstruction(changed(TINY, **changes), loss)


def test_terms_are_means_over_masked_tokens_by_an_independent_formula():
    objective, batch = made(BOTH), batch_of()
    terms = objective.losses(batch, rng(3))
    masking = draw_masking(batch["hidden"], MaskingConfig(), rng(3))
    model = objective.model
    decoded = model.decode(
        model.encode(batch, masking.kept, masking.kept_hidden, masked_BL=masking.masked),
        masking, batch["hidden"],
    )  # fmt: skip
    logits, targets = model.logits(decoded, masking.targets), batch["ids"][masking.masked]
    smooth = F.cross_entropy(logits, targets, label_smoothing=0.1)
    patches = F.smooth_l1_loss(
        objective.heads["patches"](decoded), batch["patches"][masking.masked]
    )
    latents = F.smooth_l1_loss(
        objective.heads["latents"](decoded), batch["latents"][masking.masked]
    )
    torch.testing.assert_close(terms["cross_entropy"], F.cross_entropy(logits, targets))
    torch.testing.assert_close(terms["accuracy"], (logits.argmax(-1) == targets).float().mean())
    torch.testing.assert_close(terms["loss"], smooth + 0.5 * latents + 2 * patches)


@pytest.mark.parametrize("name", ["patches", "latents"])
def test_continuous_targets_are_of_masked_tokens_only(name):
    objective, batch = made(BOTH), batch_of()
    masking = draw_masking(batch["hidden"], MaskingConfig(), rng(3))
    expected = objective.losses(batch, rng(3))
    elsewhere = batch[name].masked_fill(~masking.masked[..., None], 1e3)
    assert (objective.losses({**batch, name: elsewhere}, rng(3))["loss"]) == expected["loss"]
    there = batch[name].masked_fill(masking.masked[..., None], 1e3)
    assert objective.losses({**batch, name: there}, rng(3))["loss"] > 10 * expected["loss"]


def test_codes_can_be_left_out_of_what_is_predicted():
    terms = made(EncoderLossConfig(code_weight=0, patch_weight=1)).losses(batch_of(), rng())
    assert terms.keys() == {"loss", "patches"}
    with pytest.raises(ValueError, match="nothing to predict"):
        EncoderLossConfig(code_weight=0)


def test_a_batch_without_anything_visible_gives_zero_not_nan():
    objective, batch = made(BOTH), batch_of()
    loss = objective.losses({**batch, "hidden": torch.ones(4, 32, dtype=torch.bool)}, rng())["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_heads_of_continuous_targets_leave_the_encoder_as_it_is():
    one, other = made(EncoderLossConfig()), made(BOTH)
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("inputs", ["codes", "codes+latents", "codes+patches", "patches"])
@pytest.mark.parametrize("fill", ["class", "mask"])
def test_one_small_batch_is_learnt_by_heart(inputs, fill):
    objective, batch = made(BOTH, inputs=inputs, fill=fill), batch_of(2)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    first = {}
    for step in range(30):
        optimizer.zero_grad()
        terms = objective.losses(batch, rng(step % 3))
        terms["loss"].backward()
        optimizer.step()
        first = first or {name: float(value.detach()) for name, value in terms.items()}
    for name in ("loss", "cross_entropy", "patches", "latents"):
        assert float(terms[name].detach()) < first[name], name


def test_training_learns_a_row_pattern():
    objective = made(EncoderLossConfig())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    ids = torch.arange(4).repeat_interleave(8).expand(8, -1)  # each row of the grid has its code
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    for step in range(60):
        optimizer.zero_grad()
        result = objective.losses({"ids": ids, "hidden": hidden}, rng(step))
        result["loss"].backward()
        optimizer.step()
    assert float(result["accuracy"]) == 1.0
    assert float(result["cross_entropy"].detach()) < 0.5


@pytest.mark.parametrize(
    ("drop_ratio", "target_share", "codes"),
    [(0.5, 1.0, "names"), (0.0, 1.0, "names"), (0.5, 0.25, "names"), (0.5, 1.0, "vectors")],
)
def test_flops_are_those_that_torch_counts(drop_ratio, target_share, codes):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    masking = MaskingConfig(low=0.75, high=0.75, drop_ratio=drop_ratio, target_share=target_share)
    loss = EncoderLossConfig(masking=masking, patch_weight=1.0)
    torch.manual_seed(0)
    objective = MaskedReconstruction(
        EncoderConfig(
            n_codes=64, grid=(1, 8, 16), width=32, n_heads=2, n_encoder_layers=2,
            n_decoder_layers=1, dropout=0.0, codes=codes,
        ),
        loss,
    )  # fmt: skip
    batch = {
        "ids": torch.randint(64, (2, 128)),
        "hidden": torch.zeros(2, 128, dtype=torch.bool),
        "patches": torch.randn(2, 128, 32),
    }
    # The counter does not know the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective.losses(batch, rng())["loss"].backward()
    assert objective.flops_per_item == pytest.approx(counter.get_total_flops() / 2, rel=0.05)
    assert objective.tokens_per_item == 128
    assert len(objective.shard_units()) == 3


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """(weights, best weights, artefact) of one process."""
    return two_encoders.train(tmp_path_factory.mktemp("one") / "one")


@pytest.fixture(scope="module")
def two(tmp_path_factory, run_two_processes):
    """Folder in which two processes have trained: alike, with shards, and with shards cut short."""
    out = tmp_path_factory.mktemp("two")
    run_two_processes(Path(two_encoders.__file__), out)
    return out


def kept(two, name):
    return [checkpoint.load_tensors(two / f"{name}.{rank}.safetensors")[0] for rank in (0, 1)]


def assert_same_losses(folder, one):
    rows = [
        [row for row in stage.metrics() if row["split"] in ("train", "tuning")]
        for stage in (one[2], Artefact(folder, "encoder", {}, {}))
    ]
    assert len(rows[0]) == len(rows[1]) == 12
    for own, theirs in zip(*rows, strict=True):
        for name in ("loss", "cross_entropy", "accuracy", "patches"):
            assert theirs[name] == pytest.approx(own[name], abs=1e-4), (own["step"], name)


@pytest.mark.parametrize("name", ["two", "shards"])
def test_two_processes_sharded_or_not_give_the_losses_of_one(one, two, name):
    assert_same_losses(two / name, one)


@pytest.mark.parametrize(("name", "of_one"), [("two", 0), ("shards", 1)])
def test_two_processes_sharded_or_not_end_at_the_weights_of_one(one, two, name, of_one):
    first, second = kept(two, name)
    assert first.keys() == one[of_one].keys()
    for key, value in one[of_one].items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-2, atol=1e-3)


def test_shards_of_an_encoder_that_two_saved_load_on_one(one, two):
    assert [path.name for path in (two / "cut" / "checkpoints").iterdir()] == ["step-000000005"]
    _, weights, stage = two_encoders.train(two / "cut", config=two_encoders.SHARDED)
    starts = [(row["n_processes"], row["step"]) for row in stage.metrics() if row["split"] == "run"]
    assert starts == [(2, 0), (1, 5)]
    assert_same_losses(two / "cut", one)
    for key, value in one[1].items():
        torch.testing.assert_close(weights[key], value, rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_blocks_give_the_losses_and_gradients_of_before():
    """With the compiler's front only: every block, of sequences kept and whole, is one graph."""
    torch.compiler.reset()
    plain, ours, batch = made(BOTH), made(BOTH), batch_of()
    units = ours.compile_units()
    assert len(units) == TINY.n_encoder_layers + TINY.n_decoder_layers
    for unit in units:
        unit.compile(backend="eager", fullgraph=True)
    for seed in range(3):
        losses = [objective.losses(batch, rng(seed))["loss"] for objective in (plain, ours)]
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(*losses)
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


QUARTER = MaskingConfig(low=0.8, high=0.8, target_share=0.25)


def test_masked_tokens_that_are_no_targets_are_neither_read_nor_predicted():
    objective, batch = made(EncoderLossConfig(masking=QUARTER, patch_weight=1.0)), batch_of()
    masking = draw_masking(batch["hidden"], QUARTER, rng(3))
    expected = objective.losses(batch, rng(3))
    for place, is_the_same in ((masking.masked & ~masking.targets, True), (masking.targets, False)):
        changed_there = {
            **batch,
            "ids": torch.where(place, (batch["ids"] + 1) % 16, batch["ids"]),
            "patches": batch["patches"].masked_fill(place[..., None], 9.0),
        }
        terms = objective.losses(changed_there, rng(3))
        for name in ("cross_entropy", "patches"):
            assert torch.equal(terms[name], expected[name]) == is_the_same, name


def test_the_decoder_is_given_visible_tokens_and_targets_alone():
    objective, batch = made(EncoderLossConfig(masking=QUARTER)), batch_of()
    lengths = []
    for block in objective.model.decoder:
        block.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    objective.losses(batch, rng())
    # 26 visible: 21 are masked and 6 of them targets; the class token comes first.
    assert set(lengths) == {1 + 5 + 6}


def test_only_the_first_directions_of_a_patch_are_predicted():
    loss = EncoderLossConfig(code_weight=0, patch_weight=1, n_directions=3)
    objective, batch = made(loss), batch_of()
    expected = objective.losses(batch, rng())["loss"]
    beyond = batch["patches"].clone()
    beyond[..., 3:] = 9.0
    assert torch.equal(objective.losses({**batch, "patches": beyond}, rng())["loss"], expected)
    beyond[..., 2] = 9.0
    assert not torch.equal(objective.losses({**batch, "patches": beyond}, rng())["loss"], expected)


def test_more_directions_than_a_patch_has_are_refused():
    with pytest.raises(OpenclefError, match="give n_directions 4 at most"):
        made(EncoderLossConfig(patch_weight=1, n_directions=5))
