"""How fast a run is: items and tokens a second, and the share of what the machine could do."""

from __future__ import annotations

from openclef.types import Objective


class Speed:
    """Speed of steps of `n_items` items each, over all processes.

    An objective may tell `tokens_per_item: int` and `flops_per_item: float`, of its forward and
    backward pass; without them the numbers that need them are left out. peak_flops: operations a
    second of all processes together.
    """

    def __init__(self, objective: Objective, *, n_items: int, peak_flops: float | None) -> None:
        self._per_step: dict[str, float] = {"items_per_s": n_items}
        n_tokens = getattr(objective, "tokens_per_item", None)
        if n_tokens is not None:
            self._per_step["tokens_per_s"] = n_items * n_tokens
        n_flops = flops_per_item(objective)
        if n_flops is not None and peak_flops:
            self._per_step["peak_share"] = n_items * n_flops / peak_flops

    def of(self, seconds: float) -> dict[str, float]:
        """Columns of a step that took so long, the wait for its batch included."""
        return {name: value / seconds for name, value in self._per_step.items()}


def flops_per_item(objective: Objective) -> float | None:
    """What the objective tells, if it does."""
    n_flops: float | None = getattr(objective, "flops_per_item", None)
    return n_flops
