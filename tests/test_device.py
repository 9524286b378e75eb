"""Where a model computes. No GPU is at hand: tensors only pretend to be on one."""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from openclef import model as model_module
from openclef.embed_model import embed_file
from openclef.errors import OpenclefError
from openclef.model import CLEF
from openclef.sklearn import ClefEmbedder
from openclef.types import Embedding, Spectrogram
from openclef.window_model import ClefWindowModel
from tiny_clef import SFREQ_HZ, make_clef, noise_uv, recording_of

GPU = torch.device("cuda", 0)
NAMES = ("O1", "O2")


class OnGpu(torch.Tensor):
    """Of ordinary memory; what is made of one is one."""

    def __deepcopy__(self, memo):
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), copied)


class PretendGpu(TorchFunctionMode):
    """`to` and `device=` of a GPU give tensors that mix with no others, as one's do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if func == torch.Tensor.device.__get__ and isinstance(first, OnGpu):
            return GPU
        if name == "numpy" and isinstance(first, OnGpu):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name == "_has_compatible_shallow_copy_type":  # else parameters keep their class
            return isinstance(first, OnGpu) == isinstance(args[1], OnGpu)
        if name in {"to", "cpu"}:
            return self._moved(func, name, first, args, kwargs)
        tensors = [
            tensor
            for tensor in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor) and tensor.ndim
        ]
        is_on_gpu = {isinstance(tensor, OnGpu) for tensor in tensors}
        # Data may be set from anywhere; an index may be the CPU's, but none of ours has to be.
        if len(is_on_gpu) > 1 and name not in {"__set__", "copy_"}:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        makes_there = kwargs.get("device") is not None and torch.device(kwargs["device"]) == GPU
        if makes_there:
            del kwargs["device"]
        made = func(*args, **kwargs)
        if makes_there and isinstance(made, torch.Tensor):
            made = made.as_subclass(OnGpu)
        return made

    def _moved(self, func, name, first, args, kwargs):
        with torch._C.DisableTorchFunctionSubclass():
            plain = first.as_subclass(torch.Tensor)
            if name == "cpu":
                return plain
            wanted = [a for a in (*args[1:], *kwargs.values()) if isinstance(a, torch.device)]
            if not wanted:  # another type of number
                moved = func(plain, *args[1:], **kwargs)
                return moved.as_subclass(OnGpu) if isinstance(first, OnGpu) else moved
            kinds = [a for a in args[1:] if isinstance(a, torch.dtype)]
            moved = plain.to(*kinds)
            return moved.as_subclass(OnGpu) if wanted[0] == GPU else moved


@pytest.fixture
def gpu(monkeypatch):
    """A machine with one GPU, which is its best device."""
    monkeypatch.setattr(model_module, "best_device", lambda: GPU)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with PretendGpu():
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def on_gpu(clef):
    return {
        isinstance(tensor, OnGpu)
        for module in clef.parts.values()
        for tensor in module.state_dict().values()
    }


@pytest.mark.usefixtures("gpu")
def test_the_pretence_notices_what_is_left_behind():
    clef = make_clef().to("cuda:0")
    ids, hidden = torch.zeros(1, 256, dtype=torch.int64), torch.zeros(1, 256, dtype=torch.bool)
    kept = torch.arange(256)[None]
    with pytest.raises(RuntimeError, match="same device"):
        clef.encoder.encode({"ids": ids, "hidden": hidden}, kept, hidden)
    with pytest.raises(TypeError, match="to numpy"):
        clef.encoder.class_token.detach().numpy()


@pytest.mark.parametrize("inputs", ["codes", "codes+patches"])
def test_a_moved_model_computes_there_and_gives_what_it_gives_here(inputs, gpu):
    here = make_clef(inputs=inputs, pooling="moments")
    there = make_clef(inputs=inputs, pooling="moments")
    assert there.to("cuda:0") is there
    assert there.device == GPU
    assert on_gpu(there) == {True}
    recording = recording_of(noise_uv(2, 3000), NAMES)
    expected, found = here.embed(recording), there.embed(recording)
    assert isinstance(found, Embedding)
    np.testing.assert_array_equal(found.vector, expected.vector)
    shape = (19, 128, 1280)
    rng = np.random.default_rng(0)
    spectrogram = Spectrogram(
        rng.normal(scale=10, size=shape).astype(np.float32), np.arange(128) / 4, np.arange(1280.0),
        np.zeros(19, bool), np.arange(1280) > 500,
    )  # fmt: skip
    tokens = there.tokenize(spectrogram)
    np.testing.assert_array_equal(tokens.ids, here.tokenize(spectrogram).ids)
    np.testing.assert_array_equal(there.reconstruct(tokens), here.reconstruct(tokens))
    assert on_gpu(there.to("cpu")) == {False}


def test_an_embedder_is_where_it_is_told_to_be_or_on_the_best_device(gpu, tmp_path):
    windows = noise_uv(3, 2, 400)
    make_clef().save_pretrained(tmp_path / "model")
    signal = {"sfreq": SFREQ_HZ, "ch_names": NAMES}
    best = ClefEmbedder(tmp_path / "model", **signal).fit(windows)
    told = ClefEmbedder(tmp_path / "model", device="cpu", **signal).fit(windows)
    assert (best.model_.device, told.model_.device) == (GPU, torch.device("cpu"))
    np.testing.assert_array_equal(best.transform(windows), told.transform(windows))
    recordings = [recording_of(window, NAMES) for window in windows]
    np.testing.assert_array_equal(best.transform(recordings), told.transform(recordings))


@pytest.mark.usefixtures("gpu")
def test_a_head_is_where_the_model_is():
    chs_info = [{"ch_name": name} for name in NAMES]
    model = ClefWindowModel(
        make_clef().to(None), n_outputs=2, n_times=400, sfreq=SFREQ_HZ, chs_info=chs_info
    )
    assert isinstance(model(torch.from_numpy(noise_uv(1, 2, 400))), OnGpu)


def test_a_file_is_embedded_on_the_best_device_and_the_model_comes_back(gpu, monkeypatch, tmp_path):
    clef, used = make_clef(), []

    def embed(self, path, *, unit=None):
        used.append((self.device, on_gpu(self)))
        zeros = np.zeros((1, self.config.n_features), np.float32)
        return Embedding(zeros[0], zeros, np.zeros(1, np.float32), "hash")

    monkeypatch.setattr(CLEF, "embed", embed)
    embed_file(clef, tmp_path / "r.edf", tmp_path / "a.parquet")
    assert on_gpu(clef) == {False}
    embed_file(clef.to(None), tmp_path / "r.edf", tmp_path / "b.parquet", device="cpu")
    assert on_gpu(clef) == {True}
    assert used == [(GPU, {True}), (torch.device("cpu"), {False})]


@pytest.mark.parametrize("device", ["cud", "cuda:7", "meta"])
def test_a_device_that_is_not_there_is_refused(device, tmp_path):
    with pytest.raises(OpenclefError, match=rf"unknown device '{device}'; allowed: .*'c"):
        make_clef().to(device)
    with pytest.raises(OpenclefError, match="unknown device"):
        embed_file(make_clef(), tmp_path / "r.edf", tmp_path / "a.parquet", device=device)
