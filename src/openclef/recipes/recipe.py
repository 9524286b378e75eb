"""What a recipe fixes: every stage from splits to benchmark."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from openclef.alignment.train import AlignmentStage
from openclef.benchmark.runner import BenchmarkConfig
from openclef.cohort.splits import SplitConfig
from openclef.encoder.pooling import Pooling
from openclef.encoder.train import EncoderStage
from openclef.tokenizer.train import TokenizerStage


class Recipe(BaseModel):
    """The whole configuration of `openclef run`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    splits: SplitConfig
    tokenizer: TokenizerStage
    encoder: EncoderStage
    alignment: AlignmentStage
    pooling: Pooling
    benchmark: BenchmarkConfig


Config = TypeVar("Config", bound=BaseModel)


def changed(config: Config, **changes: Any) -> Config:
    """A copy with some fields changed, validated again."""
    return type(config).model_validate({**dict(config), **changes})
