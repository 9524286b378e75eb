"""Two processes under torchrun train the tokenizer that one trains."""

from pathlib import Path

import pytest
import torch
import two_tokenizers

from openclef.training import checkpoint

SCRIPT = Path(two_tokenizers.__file__)


@pytest.fixture(scope="module", params=["random", "components"])
def runs(request, tmp_path_factory, run_two_processes):
    """(weights of one process, its losses, weights of each of two, their losses)."""
    out = tmp_path_factory.mktemp("tokenizers") / request.param
    weights, stage = two_tokenizers.train(out / "one", request.param)
    run_two_processes(SCRIPT, out)
    two = [checkpoint.load_tensors(out / f"rank{rank}.safetensors")[0] for rank in (0, 1)]
    other = two_tokenizers.artefact.Artefact(out / "two", "tokenizer", {}, {})
    rows = [[r for r in s.metrics() if r["split"] == "train"] for s in (stage, other)]
    return weights, rows[0], two, rows[1]


def test_losses_of_20_steps_agree(runs):
    _, ours, _, theirs = runs
    assert len(ours) == len(theirs) == 20
    assert "hinge" in ours[-1]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "split", "items_per_s"}:
            # No losses: norms of gradients, the adaptive weight (a ratio of two), and perplexity,
            # in which one token that falls the other way shows.
            is_norm = name.startswith("grad_norm") or name in ("adaptive_weight", "perplexity")
            expected = (
                pytest.approx(a[name], rel=0.02) if is_norm else pytest.approx(a[name], abs=1e-4)
            )
            assert b[name] == expected, (a["step"], name)


def test_codebooks_and_everything_else_are_the_same_on_both(runs):
    first, second = runs[2]
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
