"""What a recipe fixes: every stage from splits to benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from openclef.alignment.train import AlignmentStage
from openclef.benchmark.runner import BenchmarkConfig
from openclef.cohort.splits import SplitConfig
from openclef.encoder.pooling import Pooling
from openclef.encoder.train import EncoderStage
from openclef.errors import OpenclefError, choose
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


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """A copy with fields changed by text, such as "train.batch_size=16", one after the other.

    A value is JSON, or else the text itself: `true`, `1e-3`, `[1, 8, 256]`, `bf16`. Raises
    OpenclefError naming the nearest field, or what a value may be.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise OpenclefError(
                f"{setting}: give field=value, such as train.batch_size=16; fields are of "
                f"{', '.join(type(config).model_fields)}"
            )
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        try:
            config = _set(config, path.split("."), value)
        except ValidationError as error:
            told = "; ".join(problem["msg"] for problem in error.errors())
            raise OpenclefError(f"{setting}: {told}") from error
    return config


def _set(config: Config, path: Sequence[str], value: Any) -> Config:
    """A copy in which the field at the end of the path has that value."""
    name = choose(path[0], type(config).model_fields, f"field of {type(config).__name__}")
    if len(path) == 1:
        return changed(config, **{name: value})
    part = getattr(config, name)
    if not isinstance(part, BaseModel):
        raise OpenclefError(f"{'.'.join(path)}: {name} is {part!r} and has no fields")
    return changed(config, **{name: _set(part, path[1:], value)})
