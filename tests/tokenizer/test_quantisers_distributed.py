"""Two processes and one: the same codebooks, bit for bit."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from openclef.tokenizer.quantisers import EmaConfig, ProductConfig, ResidualConfig, make_quantiser
from openclef.training.distributed import slice_of_rank

N_STEPS, N_VECTORS = 20, 96
CONFIGS = {
    "ema": EmaConfig(n_codes=64, code_dim=8, decay=0.9, restart_below=0.5),
    "residual": ResidualConfig(n_codes=64, code_dim=8, decay=0.9, restart_below=0.5),
    "product": ProductConfig(n_codes=16, code_dim=8, decay=0.9, restart_below=0.5),
}


def visible_in(step, rng):
    visible = torch.rand(N_VECTORS, generator=rng) < 0.8
    if step % 4 == 1:  # nothing visible to the second process
        visible[N_VECTORS // 2 :] = False
    if step % 4 == 2:  # nor to the first
        visible[: N_VECTORS // 2] = False
    if step == 7:  # nor to either
        visible[:] = False
    return visible


def train(config, *, start):
    """States of a quantiser after each step; `start` is this process's part of 200 latents."""
    torch.set_num_threads(1)
    data, rng = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    quantiser = make_quantiser(config)
    quantiser.start(torch.randn(200, config.code_dim, generator=data)[start], rng)
    own, states, n_restarts = slice_of_rank(N_VECTORS), [], 0
    for step in range(N_STEPS):
        centre = step * torch.linspace(-0.1, 0.1, config.code_dim)  # latents move: codes die
        z = centre + 0.5 * torch.randn(N_VECTORS, config.code_dim, generator=data)
        visible = visible_in(step, data)
        ids = quantiser(z[own], visible[own], rng).ids[visible[own]]
        for book, i in zip(quantiser.books, ids.unbind(-1), strict=True):
            n_restarts += int((book.idle == 0).sum()) - len(i.unique())
        states.append({k: v.clone() for k, v in quantiser.state_dict().items()})
    stacked = {name: torch.stack([s[name] for s in states]) for name in states[0]}
    return stacked, n_restarts


def process(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
        timeout=timedelta(seconds=30),
    )  # fmt: skip
    starts = {"ema": (slice(0, 150), slice(150, 200)), "residual": (slice(0, 100), slice(100, 200)),
              "product": (slice(0, 200), slice(200, 200))}  # fmt: skip
    for name, config in CONFIGS.items():
        states, _ = train(config, start=starts[name][rank])
        save_file(states, folder / f"{name}.{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    processes = mp.spawn(process, (folder,), nprocs=2, join=False, daemon=True)
    assert any(processes.join(timeout=60) for _ in range(2))  # returns as each of them ends
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_hold_the_codebooks_of_one_bit_for_bit(name, two):
    one, n_restarts = train(CONFIGS[name], start=slice(0, 200))
    assert n_restarts > 20
    for rank in range(2):
        other = load_file(two / f"{name}.{rank}.safetensors")
        assert one.keys() == other.keys()
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    moved = (one["books.0.codes"][1:] - one["books.0.codes"][:-1]).abs().amax((1, 2)) > 0
    assert moved.tolist() == [step != 7 for step in range(1, N_STEPS)]
