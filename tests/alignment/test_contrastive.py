import pytest
import torch
import torch.nn.functional as F

from openclef.alignment.contrastive import AlignmentConfig, AlignmentObjective, info_nce
from openclef.alignment.ehr import EhrTowerConfig
from openclef.alignment.text import TextTowerConfig
from openclef.encoder.transformer import EncoderConfig

ENCODER = EncoderConfig(
    n_codes=16, grid=(1, 4, 8), width=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1
)
CONFIG = AlignmentConfig(
    dim=8,
    text=TextTowerConfig(width=16, n_heads=2, n_layers=1, dropout=0.0),
    ehr=EhrTowerConfig(width=16, n_heads=2, n_layers=1, dropout=0.0),
)


def batch(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "ids": torch.randint(16, (n, 32), generator=g),
        "hidden": torch.zeros(n, 32, dtype=torch.bool),
        "text": torch.randn(n, 5, 12, generator=g),
        "text_hidden": torch.zeros(n, 5, dtype=torch.bool),
        "has_text": torch.ones(n, dtype=torch.bool),
        "codes": torch.randint(1, 100, (n, 4), generator=g),
        "has_codes": torch.ones(n, dtype=torch.bool),
        "subject": torch.arange(n),
    }


@pytest.fixture
def objective():
    torch.manual_seed(0)
    return AlignmentObjective(ENCODER, CONFIG, text_features_width=12).eval()


def losses(objective, b):
    return objective.losses(b, torch.Generator().manual_seed(0))


def test_info_nce_by_hand():
    x, y = F.normalize(torch.randn(4, 8), dim=-1), F.normalize(torch.randn(4, 8), dim=-1)
    scores = x @ y.T / 0.07
    expected = (
        -(scores.softmax(1).diagonal().log().mean() + scores.softmax(0).diagonal().log().mean()) / 2
    )
    loss, _ = info_nce(3 * x, y, torch.arange(4), temperature=0.07)
    torch.testing.assert_close(loss, expected)


def test_sessions_of_one_patient_are_no_negatives_of_each_other():
    x, y = torch.randn(3, 8), torch.randn(3, 8)
    y[1] = y[0]  # one patient, one record
    together, _ = info_nce(x, y, torch.tensor([7, 7, 8]), temperature=1.0)
    apart, _ = info_nce(x, y, torch.tensor([7, 9, 8]), temperature=1.0)
    assert together < apart


def test_fewer_than_two_pairs_have_nothing_to_tell_apart():
    x = torch.randn(1, 8, requires_grad=True)
    loss, _ = info_nce(x, torch.randn(1, 8), torch.zeros(1), temperature=0.07)
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_a_session_without_a_report_leaves_the_term_and_its_negatives(objective):
    b = batch()
    b["has_text"][2] = False
    present = torch.arange(6) != 2
    without = {name: value[present] for name, value in b.items()}
    torch.testing.assert_close(losses(objective, b)["text"], losses(objective, without)["text"])
    changed = {**b, "text": b["text"].clone()}
    changed["text"][2] += 5
    assert losses(objective, changed)["loss"] == losses(objective, b)["loss"]


@pytest.mark.parametrize("missing", ["has_text", "has_codes"])
def test_a_batch_without_any_report_or_record_still_trains_on_the_other(objective, missing):
    b = batch()
    b[missing][:] = False
    result = losses(objective, b)
    assert torch.isfinite(result["loss"])
    assert float(result["loss"].detach()) > 0


def test_alignment_moves_the_encoder(objective):
    objective.train()
    losses(objective, batch())["loss"].backward()
    assert objective.encoder.tokens.weight.grad.abs().sum() > 0
    assert objective.encoder.encoder[0].qkv.weight.grad.abs().sum() > 0


def test_pairs_that_agree_can_be_learned(objective):
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    b = batch()
    first = float(losses(objective, b)["loss"].detach())
    for _ in range(60):
        optimizer.zero_grad()
        result = losses(objective, b)
        result["loss"].backward()
        optimizer.step()
    assert float(result["loss"].detach()) < 0.5 * first
    assert float(result["text_top1"]) == 1.0


@pytest.mark.parametrize("n_keep", [None, 8])
def test_a_window_that_shows_nothing_spoils_no_step(objective, n_keep):
    objective.config = CONFIG.model_copy(update={"n_keep": n_keep})
    b = batch()
    b["hidden"][2] = True
    found = losses(objective.train(), b)
    found["loss"].backward()
    assert found["loss"].isfinite()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any((gradient != 0).any() for gradient in gradients)
