import shutil

import pytest
import torch
import toys

from openclef.errors import OpenclefError
from openclef.training import compiling

# The compiler looks at tensors that are no leaves, and imports parts that are out of date.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),
]
CPU = torch.device("cpu")


def test_parts_are_compiled_and_train_as_before(tmp_path, monkeypatch):
    """With the compiler's front only, which needs no C++ compiler and takes a second."""
    compiled = []

    def keep(graph, _):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch.nn.Module, "compile",
        lambda self: setattr(
            self, "_compiled_call_impl", torch.compile(self._call_impl, backend=keep)
        ),
    )  # fmt: skip
    monkeypatch.setattr(shutil, "which", lambda name: name)
    torch.compiler.reset()
    plain = toys.run(tmp_path / "plain", objective=toys.SmallTransformer(), config=toys.SHORT)
    assert not compiled
    config = toys.changed(toys.SHORT, compile=True)
    ours = toys.run(tmp_path / "compiled", objective=toys.SmallTransformer(), config=config)
    assert compiled
    toys.assert_same(ours, plain)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile with")
def test_compiled_for_real_the_losses_are_those_of_before(tmp_path):
    torch.compiler.reset()
    plain = toys.run(tmp_path / "plain", objective=toys.SmallTransformer(), config=toys.SHORT)
    config = toys.changed(toys.SHORT, compile=True)
    ours = toys.run(tmp_path / "compiled", objective=toys.SmallTransformer(), config=config)
    for mine, other in zip(toys.rows(ours[0]), toys.rows(plain[0]), strict=True):
        assert mine == pytest.approx(other, abs=1e-4)


def test_without_a_compiler_it_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OpenclefError, match=r"C\+\+ compiler .*'no-such-compiler' is not there"):
        compiling.compile_parts(toys.SmallTransformer(), CPU)


def test_an_objective_that_names_no_parts_is_one_clear_error():
    with pytest.raises(OpenclefError, match="MaskedLine names nothing to compile"):
        compiling.compile_parts(toys.MaskedLine(), CPU)
