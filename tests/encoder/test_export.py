import json
import zipfile

import pytest
import torch

from openclef.encoder.export import NOTES, export_embed
from openclef.encoder.pooling import encode_and_pool
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer
from openclef.errors import OpenclefError
from openclef.recipes.recipe import changed

PLAIN = EncoderConfig(
    n_codes=16, grid=(2, 4, 8), width=16, n_heads=2, n_encoder_layers=2, n_decoder_layers=1
)
EVERYTHING = EncoderConfig.model_validate(
    {**dict(PLAIN), "inputs": "codes+latents", "use_channel_mask": True, "use_clock": True}
)


def made(config):
    torch.manual_seed(0)
    return MaskedTransformer(config).eval()


def batch_of(model, n_windows, *, hide):
    rng = torch.Generator().manual_seed(n_windows)
    config = model.config
    columns = torch.zeros(n_windows, *config.grid, dtype=torch.bool)
    if hide:
        columns[0, :, :, 3:] = True
        columns[-1, 1] = True
        columns[n_windows // 2] = n_windows > 1  # of this window nothing is visible
    everything = {
        "ids": torch.randint(16, (n_windows, config.n_tokens), generator=rng),
        "hidden": columns.flatten(1),
        "latents": torch.randn(n_windows, config.n_tokens, 32, generator=rng),
        "patches": torch.randn(n_windows, config.n_tokens, 32, generator=rng),
        "channel_mask": torch.rand(n_windows, 19, generator=rng) < 0.5,
        "hour": torch.linspace(0, 23, n_windows),
    }
    return {n: v for n, v in everything.items() if n in {"ids", "hidden", *config.companions}}


VECTORS = changed(PLAIN, codes="vectors")
CENTRED = changed(PLAIN, inputs="patches", patches="centred", positions="rotary", n_heads=1)


@pytest.mark.parametrize(
    ("config", "pooling", "layer"),
    [
        (PLAIN, "mean", -1),
        (EVERYTHING, "rows", 0),
        (VECTORS, "moments", -1),
        (CENTRED, "class", -1),
    ],
)
def test_the_exported_path_gives_what_the_eager_one_does(config, pooling, layer, tmp_path):
    model = made(config)
    export_embed(model, tmp_path / "embed.pt2", pooling=pooling, layer=layer)
    exported = torch.export.load(tmp_path / "embed.pt2").module()
    for n_windows in (1, 5):
        for hide in (False, True):
            batch = batch_of(model, n_windows, hide=hide)
            with torch.no_grad():
                eager = encode_and_pool(
                    model, batch["ids"], batch["hidden"], how=pooling, layer=layer,
                    companions=batch,
                )  # fmt: skip
                found = exported(batch)
            torch.testing.assert_close(found, eager, atol=1e-4, rtol=0, equal_nan=True)
            assert torch.equal(found.isnan().all(1), batch["hidden"].all(1))
            assert torch.equal(found.isnan().any(1), batch["hidden"].all(1))
    notes = {NOTES: ""}
    torch.export.load(tmp_path / "embed.pt2", extra_files=notes)
    assert json.loads(notes[NOTES])["batch"] == list(batch)
    with zipfile.ZipFile(tmp_path / "embed.pt2") as archive:
        n_bytes = {info.filename: info.file_size for info in archive.infolist()}
    pickled = [name for name, n in n_bytes.items() if n and name.endswith((".pt", ".pkl"))]
    assert not pickled
    own = (
        "tokens",
        "positions",
        "class_token",
        "input_norm",
        "encoder",
        "features",
        "row_levels",
        "channels",
        "clock",
    )
    read = [p.numel() for n, p in model.named_parameters() if n.startswith(own)]
    stored = sum(n for name, n in n_bytes.items() if "/weight_" in name)
    assert stored <= 4 * sum(read), "holds what is not read"


def test_another_suffix_and_layers_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(OpenclefError, match=r"must end in .pt2, such as embed.pt2"):
        export_embed(made(PLAIN), tmp_path / "embed.onnx", pooling="mean")
    with pytest.raises(OpenclefError, match="layer 7"):
        export_embed(made(PLAIN), tmp_path / "embed.pt2", pooling="mean", layer=7)
