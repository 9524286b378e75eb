"""Models of random weights, for tests of what surrounds a model."""

import numpy as np
import torch

from openclef.encoder.transformer import EncoderConfig, MaskedTransformer
from openclef.model import CLEF, ModelConfig
from openclef.tokenizer.quantisers import EmaConfig
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan
from openclef.tokenizer.whitener import Whitener
from openclef.types import CHANNELS, Recording

SFREQ_HZ = 100.0


def make_clef(
    *, pooling="mean", layer=-1, inputs="codes", strides=((4, 5), (4, 1)), regions="all",
    codes="names",
):  # fmt: skip
    """All of it is random, biases and statistics too: nothing is zero that is read."""
    tokenizer_config = TokenizerConfig(
        strides=strides, widths=(8,) * len(strides), n_blocks=1, regions=regions,
        quantiser=EmaConfig(n_codes=16, code_dim=4),
    )  # fmt: skip
    encoder_config = EncoderConfig(
        n_codes=16, grid=tokenizer_config.grid, width=16, n_heads=2, n_encoder_layers=2,
        n_decoder_layers=1, inputs=inputs, codes=codes, latent_dim=4, patch_dim=4,
        use_channel_mask=True, use_clock=True,
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer, encoder = Vqgan(tokenizer_config), MaskedTransformer(encoder_config)
    whitener = Whitener(tokenizer_config, 4) if encoder_config.feature_dims else None
    if whitener is not None:
        for name, value in whitener.named_buffers():
            if name.startswith("projection"):
                value.normal_()
    config = ModelConfig(
        tokenizer=tokenizer_config, encoder=encoder_config, pooling=pooling, layer=layer,
        is_aligned=False,
    )  # fmt: skip
    return CLEF(
        config, tokenizer, encoder, whitener=whitener, model_hash="random", inputs={"encoder": "e"}
    )  # fmt: skip


def noise_uv(*shape, seed=0):
    """White noise of 20 uV."""
    rng = np.random.default_rng(seed)
    return (20 * rng.standard_normal(shape)).astype(np.float32)


def recording_of(signal_uv, names=CHANNELS):
    return Recording(signal_uv, SFREQ_HZ, tuple(names), np.zeros(len(names), bool))
