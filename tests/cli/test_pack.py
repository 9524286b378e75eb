"""`openclef pack`: any readout can be packed, and what cannot be is refused."""

import pytest
from command import openclef

from openclef.model import CLEF


def pack(run, out, *options):
    return openclef("pack", run / "tokenizer", run / "encoder", out, "--recipe", "tiny", *options)


def test_the_readout_is_the_recipes_unless_told(finished_run, tmp_path):
    assert pack(finished_run, tmp_path / "a").returncode == 0
    told = pack(finished_run, tmp_path / "b", "--pooling", "mean", "--layer", "0")
    assert (told.returncode, told.stderr) == (0, "")
    for name, readout in (("a", ("moments", -1)), ("b", ("mean", 0))):
        config = CLEF.from_pretrained(tmp_path / name).config
        assert (config.pooling, config.layer) == readout


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--pooling", "moment", "allowed: class, mean, moments, rows; did you mean 'moments'?"),
        ("--pooling", "attention", "unknown pooling 'attention'"),
        ("--layer", "7", "layer 7: the encoder has 0 to 0, and -1, the last one normed; nearest 0"),
        ("--layer", "-5", "nearest -1"),
    ],
)
def test_a_readout_that_is_not_there_is_refused(finished_run, tmp_path, option, value, said):
    done = pack(finished_run, tmp_path / "model", option, value)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "model").exists()
