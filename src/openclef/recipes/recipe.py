"""What a recipe fixes: every stage from splits to benchmark."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openclef.alignment.train import AlignmentStage
from openclef.benchmark.runner import BenchmarkConfig
from openclef.cohort.splits import SplitConfig
from openclef.encoder.pooling import Pooling
from openclef.encoder.train import EncoderStage
from openclef.errors import OpenclefError, choose
from openclef.tokenizer.train import TokenizerStage


class Recipe(BaseModel):
    """The whole configuration of `openclef run`. pooling, layer: how windows are read out, see
    `encoder.pooling.encode_and_pool`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    splits: SplitConfig
    tokenizer: TokenizerStage
    encoder: EncoderStage
    alignment: AlignmentStage
    pooling: Pooling
    layer: int = Field(-1, ge=-1)
    benchmark: BenchmarkConfig

    @model_validator(mode="after")
    def _encoder_has_the_layer(self) -> Recipe:
        last = self.encoder.model.n_encoder_layers - 1
        if self.layer > last:
            raise ValueError(f"layer {self.layer}: the encoder has 0 to {last}; nearest {last}")
        return self


Config = TypeVar("Config", bound=BaseModel)


def changed(config: Config, **changes: Any) -> Config:
    """A copy with some fields changed, validated again."""
    return type(config).model_validate({**dict(config), **changes})


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """A copy with fields changed by text, such as "train.batch_size=16", validated together.

    A value is JSON, or else the text itself: `true`, `1e-3`, `null`, `bf16`. Raises OpenclefError
    naming the nearest field, or what a value may be.
    """
    values = config.model_dump()
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
        if _is_number(value) and not math.isfinite(float(value)):
            raise OpenclefError(f"{setting}: {value} is no number that a field may have")
        part, within = config, values
        *parents, name = path.split(".")
        for parent in parents:
            part = _field(part, parent, setting)
            if not isinstance(part, BaseModel):
                raise OpenclefError(f"{setting}: {parent} is {part!r} and has no fields")
            within = within[parent]
        before = _field(part, name, setting)
        if isinstance(before, BaseModel):
            raise OpenclefError(
                f"{setting}: give one of its fields, such as {path}."
                f"{next(iter(type(before).model_fields))}=..."
            )
        if isinstance(value, bool) and not isinstance(before, bool):
            raise OpenclefError(f"{setting}: {path} is no switch; it is {before!r}")
        within[name] = value
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise OpenclefError(f"{', '.join(settings)}: {told}") from error


def _is_number(value: Any) -> bool:
    """Whether it is one, or text that would be read as one ("nan")."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _field(config: BaseModel, name: str, setting: str) -> Any:
    fields = type(config).model_fields
    return getattr(config, choose(name, fields, f"field of {type(config).__name__}, {setting}:"))
