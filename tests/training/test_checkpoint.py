import pytest
import torch
from torch import nn

from openclef import artefact
from openclef.errors import ArtefactError
from openclef.training import checkpoint


def test_tensors_and_notes_come_back(tmp_path):
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor(True)}
    checkpoint.save_tensors(tmp_path / "t.safetensors", tensors, notes={"step": 3})
    back, notes = checkpoint.load_tensors(tmp_path / "t.safetensors")
    assert notes == {"step": 3}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_a_file_that_holds_no_weights_is_one_clear_error(tmp_path):
    (tmp_path / "t.safetensors").write_bytes(b"not weights")
    with pytest.raises(ArtefactError, match="cannot be read as weights"):
        checkpoint.load_tensors(tmp_path / "t.safetensors")


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_loading_needs_every_tensor_to_match(change):
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    if change == "missing":
        del state["bias"]
    elif change == "extra":
        state["more"] = torch.zeros(1)
    else:
        state["bias"] = torch.zeros(4)
    with pytest.raises(ArtefactError, match=r"1 of 2 tensors do not match.*nothing was loaded"):
        checkpoint.load_weights(model, state, source="x")
    assert torch.equal(model.weight, before)


def test_optimizer_state_survives_flattening():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    flat = checkpoint.pack_optimizer(optimizer)
    fresh = torch.optim.AdamW(model.parameters(), lr=0.1)
    checkpoint.unpack_optimizer(fresh, flat)
    again = checkpoint.pack_optimizer(fresh)
    assert flat.keys() == again.keys()
    assert all(torch.equal(flat[name], again[name]) for name in flat)


def test_a_published_artefact_is_complete_and_keeps_no_checkpoints(tmp_path):
    stage = artefact.begin(tmp_path, kind="toy", config={}, inputs={})
    checkpoint.save_tensors(tmp_path / checkpoint.FOLDER / "last.safetensors", {})
    weights = {"a": torch.ones(2)}
    checkpoint.publish(stage, {"one.safetensors": weights, "two.safetensors": weights})
    assert sorted(stage.manifest()["outputs"]) == ["one.safetensors", "two.safetensors"]
    assert torch.equal(checkpoint.load_tensors(tmp_path / "two.safetensors")[0]["a"], weights["a"])
    assert not (tmp_path / checkpoint.FOLDER).exists()
