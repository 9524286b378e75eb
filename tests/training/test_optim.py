import numpy as np
import pytest
import torch
import toys
from torch import nn

from openclef.training.optim import (
    OptimConfig,
    WeightAverage,
    clip_gradients,
    clipping_groups,
    learning_rate,
)


def test_learning_rate_warms_up_and_decays_to_zero():
    config = OptimConfig(lr=1.0, warmup_fraction=0.1)
    rates = [learning_rate(step, n_steps=100, config=config) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[9] == max(rates)
    assert rates[-1] < 0.01


def test_average_warms_up_to_a_half_life_of_a_tenth_of_the_steps():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, n_steps=100, config=OptimConfig(ema_decay=0.9999))
    nn.init.ones_(model.weight)
    for step in range(1000, 1010):
        average.update(model, step=step)
    assert float(average.state["weight"]) == pytest.approx(0.5)


def test_each_group_is_clipped_to_the_norm_on_its_own():
    small, large = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([300.0, 400.0])
    assert clip_gradients([[small], [large]], 1.0) == pytest.approx([0.5, 500.0])
    assert small.grad.tolist() == pytest.approx([0.3, 0.4])
    assert large.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


def test_an_objective_without_groups_is_one_group():
    class Plain(nn.Linear):
        losses = None

    model = Plain(2, 2)
    (group,) = clipping_groups(model)
    assert group == list(model.parameters())


@pytest.mark.parametrize("wrong", ["missing", "twice"])
def test_groups_hold_every_parameter_once(wrong):
    class Wrong(toys.MaskedLine):
        def parameter_groups(self):
            others, adversary = super().parameter_groups()
            return [others] if wrong == "missing" else [others, adversary, adversary[:1]]

    with pytest.raises(ValueError, match="exactly once"):
        clipping_groups(Wrong())


def test_average_starts_with_a_decay_of_a_tenth():
    """min(.9999, (1 + t) / (10 + t)): the first step leaves a tenth of the initial weights."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    average = WeightAverage(model, n_steps=10**6, config=OptimConfig(ema_decay=0.9999))
    nn.init.zeros_(model.weight)
    for step, left in enumerate((1 / 10, 1 / 10 * 2 / 11, 1 / 10 * 2 / 11 * 3 / 12)):
        average.update(model, step=step)
        assert float(average.state["weight"]) == pytest.approx(left)
