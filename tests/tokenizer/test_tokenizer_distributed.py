"""Two processes under torchrun train the tokenizer that one trains."""

import json
from pathlib import Path

import pytest
import torch
import two_tokenizers

from openclef.cohort.store import Cohort
from openclef.training import checkpoint

SCRIPT = Path(two_tokenizers.__file__)


@pytest.fixture(scope="module")
def out(tmp_path_factory, run_two_processes):
    """Folder of what two processes did, from each start."""
    out = tmp_path_factory.mktemp("tokenizers")
    two_tokenizers.write_cohort(out / "cohort")
    run_two_processes(SCRIPT, out)
    return out


@pytest.fixture(scope="module", params=two_tokenizers.STARTS)
def runs(request, out):
    """(losses of one process, weights of each of two, their losses)."""
    start = request.param
    _, stage = two_tokenizers.train(out / f"one-{start}", start)
    two = [checkpoint.load_tensors(out / f"{start}-{rank}.safetensors")[0] for rank in (0, 1)]
    other = two_tokenizers.artefact.Artefact(out / f"two-{start}", "tokenizer", {}, {})
    rows = [[r for r in s.metrics() if r["split"] == "train"] for s in (stage, other)]
    return rows[0], two, rows[1]


def test_losses_of_20_steps_agree(runs):
    ours, _, theirs = runs
    assert len(ours) == len(theirs) == 20
    assert "hinge" in ours[-1]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "split", "wait_s", "items_per_s"}:
            # No losses: norms of gradients, the adaptive weight (a ratio of two), and perplexity,
            # in which one token that falls the other way shows.
            is_norm = name.startswith("grad_norm") or name in ("adaptive_weight", "perplexity")
            expected = (
                pytest.approx(a[name], rel=0.02) if is_norm else pytest.approx(a[name], abs=1e-4)
            )
            assert b[name] == expected, (a["step"], name)


def test_codebooks_and_everything_else_are_the_same_on_both(runs):
    first, second = runs[1]
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_first_process_alone_starts_and_as_if_it_were_alone(out):
    """The group is there already when `train_tokenizer` begins."""
    alone, read = two_tokenizers.started(Cohort(out / "cohort"), out / "started by one")
    assert len(read) == two_tokenizers.STAGE.n_start
    assert json.loads((out / "read by 0.json").read_text()) == read
    assert json.loads((out / "read by 1.json").read_text()) == []
    weights, _ = checkpoint.load_tensors(out / "started by two" / "tokenizer.safetensors")
    assert weights.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(weights[name], value), name
