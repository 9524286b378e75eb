"""The calls that OpenEEGBench, braindecode and skorch make of a window model."""

import copy
import inspect
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from openclef.errors import ArtefactError, OpenclefError
from openclef.window_model import ClefWindowModel
from tiny_clef import SFREQ_HZ, make_clef, noise_uv

# As `info["chs"]` of MNE, which holds more than names.
CHS_INFO = [{"ch_name": name, "kind": 2, "unit": 107, "loc": [0.0] * 12} for name in ("O1", "O2")]
SIGNAL = {"n_chans": 2, "n_times": 400, "n_outputs": 2, "sfreq": SFREQ_HZ, "chs_info": CHS_INFO}
HEADS = {
    "linear": lambda: nn.Sequential(nn.Flatten(1), nn.LazyLinear(3)),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(1), nn.LazyLinear(8), nn.ELU(), nn.Dropout(0.5), nn.Linear(8, 3)
    ),
    "flatten": lambda: nn.Flatten(1),
    "identity": nn.Identity,
}


@pytest.fixture(scope="module")
def clef():
    return make_clef(pooling="class")


@pytest.fixture(scope="module")
def json_kwargs(clef, tmp_path_factory):
    folder = tmp_path_factory.mktemp("window_model") / "model"
    clef.save_pretrained(folder)
    return json.loads(json.dumps({"model": str(folder)}))


@pytest.fixture(scope="module")
def windows():
    return torch.from_numpy(noise_uv(4, 2, 400))


def scores(model, x):
    with torch.no_grad():
        return model.eval()(x)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pooling", ["class", "rows"])
def test_any_module_may_be_the_head(head, pooling, windows):
    model = ClefWindowModel(make_clef(pooling=pooling), **SIGNAL)
    model.final_layer = HEADS[head]()
    shape = scores(model, torch.zeros(1, 2, 400)).shape  # what sizes lazy layers
    model.train()
    found = scores(model, windows)
    assert shape == (1, found.shape[1])
    assert found.shape[1] == (3 if head in {"linear", "mlp"} else model.n_features)
    expected = model(windows, return_features=True)["features"]
    if head in {"flatten", "identity"}:
        torch.testing.assert_close(found, expected)
    assert (model.n_outputs, model.n_features) == (2, expected.shape[1])
    model.reset_head(5)
    assert (scores(model, windows).shape, model.n_outputs) == ((4, 5), 5)


def test_a_head_of_another_precision_is_fed_its_own(clef, windows):
    model = ClefWindowModel(clef, **SIGNAL)
    model.final_layer = nn.Linear(model.n_features, 3, dtype=torch.float64)
    assert scores(model, windows).dtype == torch.float64
    model.reset_head(3)
    assert scores(model, windows).dtype == model.encoder.class_token.dtype


def test_it_is_built_from_what_json_holds(json_kwargs, clef, windows):
    built = ClefWindowModel(**json_kwargs, **SIGNAL)
    assert scores(built, windows).shape == (4, 2)
    found, expected = (
        model(windows, return_features=True)["features"]
        for model in (built, ClefWindowModel(clef, **SIGNAL).eval())
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("inputs", ["codes", "codes+patches"])
def test_published_weights_are_those_of_a_window_model(inputs, tmp_path):
    """OpenEEGBench reads a hub's `model.safetensors` into the model by the tensors' names."""
    clef = make_clef(inputs=inputs)
    clef.save_pretrained(tmp_path / "model")
    published = load_file(tmp_path / "model" / "model.safetensors")
    model = ClefWindowModel(clef, **SIGNAL)
    missing, unexpected = model.load_state_dict(published, strict=False)
    assert set(missing) == {"final_layer.weight", "final_layer.bias"}
    assert not unexpected


def test_a_window_may_be_given_in_seconds(clef, windows):
    timed = {name: value for name, value in SIGNAL.items() if name != "n_times"}
    model = ClefWindowModel(clef, **timed, input_window_seconds=4.0)
    assert (model.n_times, model.input_window_seconds) == (400, 4.0)
    assert scores(model, windows).shape == (4, 2)
    assert ClefWindowModel(clef, **SIGNAL, input_window_seconds=4.0).n_times == 400
    assert ClefWindowModel(clef, **SIGNAL).input_window_seconds == 4.0
    told = "n_times 400, but input_window_seconds 5 at 100 Hz is 500 samples"
    with pytest.raises(OpenclefError, match=told):
        ClefWindowModel(clef, **SIGNAL, input_window_seconds=5)
    with pytest.raises(OpenclefError, match="give n_times or input_window_seconds"):
        ClefWindowModel(clef, **timed)


def test_what_is_no_model_is_refused(clef, tmp_path):
    with pytest.raises(ArtefactError, match=str(tmp_path)):
        ClefWindowModel(model=tmp_path, **SIGNAL)
    with pytest.raises(OpenclefError, match="revision 'v1' is of a hub id"):
        ClefWindowModel(clef, **SIGNAL, revision="v1")


def test_parameters_that_braindecode_infers_are_named_by_the_constructor():
    """Its nets look up the signature, and leave out what is not in it."""
    assert {*SIGNAL, "input_window_seconds"} <= set(inspect.signature(ClefWindowModel).parameters)


def test_copies_and_a_model_made_again_do_the_same(json_kwargs, windows):
    """scikit-learn clones what nets were given by deep copies; parallel jobs pickle it."""
    given = {**json_kwargs, **SIGNAL, "input_window_seconds": 4.0, "unit": "uV"}
    model = ClefWindowModel(**given)
    model.final_layer = HEADS["linear"]()
    copy.deepcopy(model)  # before its lazy layer has a size
    expected = scores(model, windows)
    torch.testing.assert_close(scores(copy.deepcopy(model), windows), expected)
    torch.testing.assert_close(scores(pickle.loads(pickle.dumps(model)), windows), expected)
    again = type(model)(**copy.deepcopy(given))
    again.final_layer = HEADS["linear"]()
    scores(again, windows[:1])
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(scores(again, windows), expected)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_step_moves_the_encoder_unless_it_is_frozen(is_frozen, json_kwargs, clef, windows):
    model = ClefWindowModel(**json_kwargs, **SIGNAL)
    model.final_layer = HEADS["linear"]()
    scores(model, torch.zeros(1, 2, 400))
    if is_frozen:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("final_layer" in name)
    head = model.final_layer[1].weight.clone()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)  # of all of them, as skorch's
    loss = nn.functional.cross_entropy(model.train()(windows), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optimiser.step()
    assert (model.final_layer[1].weight != head).any()
    is_moved = (model.encoder.class_token != clef.encoder.class_token).any()
    assert bool(is_moved) is not is_frozen
    torch.testing.assert_close(model.tokenizer.state_dict(), clef.tokenizer.state_dict())
