"""A packed model embeds a recording as the stages embed its tokens, whatever the encoder reads."""

import numpy as np
import polars as pl
import pytest

from openclef.alignment.train import align
from openclef.cohort.store import Cohort
from openclef.embed_model import embed_cohort
from openclef.encoder.embed import embed_tokens
from openclef.encoder.train import train_encoder
from openclef.errors import OpenclefError
from openclef.model import CLEF, pack
from openclef.recipes import get_recipe
from openclef.recipes.encoders import for_tokens
from openclef.recipes.recipe import changed
from openclef.tokenizer.features import FeaturesConfig, FeatureTable, extract_features
from openclef.tokenizer.token_table import TokenTable


def test_a_model_with_every_input_embeds_like_the_stages(finished_run, tmp_path):
    cohort = Cohort(finished_run / "cohort")
    tokens = TokenTable(finished_run / "tokens", cohort)
    tokenizer = finished_run / "tokenizer"
    config = FeaturesConfig(patch_dim=8, n_windows=4)
    extract_features(cohort, tokenizer, tokens, tmp_path / "features", config=config)
    features = FeatureTable(tmp_path / "features")
    tiny = get_recipe("tiny").encoder
    model = changed(
        tiny.model, inputs="codes+patches", patch_dim=8, use_channel_mask=True, use_clock=True,
        latent_dim=features.latents.shape[-1],
    )  # fmt: skip
    stage = for_tokens(changed(tiny, model=model, train=changed(tiny.train, n_steps=1)), tokens)
    encoder, sources = tmp_path / "encoder", {"cohort": cohort, "features": features}
    train_encoder(tokens, encoder, config=stage, **sources)
    embed_tokens(
        encoder, tokens, tmp_path / "stages", model="m", pooling="rows", layer=0, **sources
    )
    pack(tokenizer, encoder, tmp_path / "model", pooling="rows", layer=0)
    embed_cohort(CLEF.from_pretrained(tmp_path / "model"), cohort, tmp_path / "packed")
    by_stages, packed = (
        pl.read_parquet(tmp_path / name / "embeddings.parquet") for name in ("stages", "packed")
    )
    both = by_stages.join(packed, on=["session_id", "window"], suffix="_packed")
    assert both.height == by_stages.height
    ours, theirs = (np.stack(both[name].to_list()) for name in ("vector", "vector_packed"))
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)

    with pytest.raises(OpenclefError, match="alignment gives codes only"):
        align(cohort, tokens, encoder, tmp_path / "aligned", config=get_recipe("tiny").alignment)
