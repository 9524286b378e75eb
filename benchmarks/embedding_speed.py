"""Embedding one 20-minute session, against LaBraM-base and CBraMod.

    python benchmarks/embedding_speed.py [--sizes small base] [--threads 2] [--repeats 7]

The session is 19 channels x 1,280 s at 200 Hz, in memory; all weights are random, which does not
change how long they take. Ours: from the tokens, and from the raw waveform (line noise detected,
filters, spectrogram, tokens, embedding), one window; their parameters include the decoders, which
are not run. `CLEF.embed` is the same as users call it, fp32 throughout. The peers (braindecode,
`openclef[baselines]`) cut the session into windows of 1-s patches, the last one padded, and are
given it filtered, which is not timed:

- LaBraM-base: 15 s, the length braindecode publishes its weights for, and 10 s;
- CBraMod: 30 s as in its pretraining, and 10 s.

Each contender runs in fp32 and bf16 autocast, peers in several batch sizes too; the fastest of
these is chosen by the shorter of two runs and then timed in rounds, so that all meet the same
machine. Tokens are made in fp32, as those that an encoder learns from: bf16 changes codes. A
ratio is to the faster of a peer's windows: more than 1 is faster than it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from openclef.encoder.pooling import encode_and_pool
from openclef.encoder.transformer import MaskedTransformer
from openclef.model import CLEF, ModelConfig
from openclef.recipes.encoders import get_encoder
from openclef.recipes.recipe import changed
from openclef.recipes.tokenizers import get_tokenizer
from openclef.signal import window_spectrogram
from openclef.tokenizer.vqgan import Vqgan
from openclef.types import CHANNELS, SFREQ_HZ, WINDOW_S, Recording, Spectrogram

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEER_WINDOWS_S = {"labram": (15, 10), "cbramod": (30, 10)}
PEER_NAMES = {"labram": "LaBraM-base", "cbramod": "CBraMod"}

Work = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """What is timed: the same embedding in several ways, by what they are called."""

    name: str
    n_parameters: int
    ways: dict[str, Work]


def autocast(dtype: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16")


def session() -> Recording:
    """Pink noise of 20 uV with mains: what it holds does not change how long it takes."""
    rng = np.random.default_rng(0)
    n_times = round(WINDOW_S * SFREQ_HZ)
    freqs_hz = np.fft.rfftfreq(n_times, 1 / SFREQ_HZ)
    shape = (len(CHANNELS), len(freqs_hz))
    spectrum = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    pink = np.fft.irfft(spectrum / np.maximum(freqs_hz, 0.5) ** 0.5, n_times)
    line = 5 * np.sin(2 * np.pi * 60 * np.arange(n_times) / SFREQ_HZ)
    return Recording(
        signal_uv=(20 * pink / pink.std() + line).astype(np.float32),
        sfreq_hz=SFREQ_HZ,
        ch_names=CHANNELS,
        channel_mask=np.zeros(len(CHANNELS), np.bool_),
    )


def n_parameters(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def random_model(size: str) -> CLEF:
    """Tokenizer and encoder of that name with random weights and codebook, not compiled."""
    torch.manual_seed(0)
    of_tokenizer = get_tokenizer(size).model
    tokenizer = Vqgan(of_tokenizer)
    n_codes, code_dim = of_tokenizer.quantiser.n_codes, of_tokenizer.quantiser.code_dim
    tokenizer.quantiser.start(torch.randn(2 * n_codes, code_dim), torch.Generator())
    of_encoder = changed(get_encoder(size).model, grid=of_tokenizer.grid, n_codes=n_codes)
    config = ModelConfig(
        tokenizer=of_tokenizer, encoder=of_encoder, pooling="mean", is_aligned=False
    )
    encoder = MaskedTransformer(of_encoder)
    return CLEF(config, tokenizer, encoder, whitener=None, model_hash="", inputs={})


def ours(size: str, recording: Recording) -> tuple[list[Contender], list[tuple[str, Work]]]:
    """Contenders of one size, and the stages of its way from the waveform."""
    model = random_model(size)
    spectrogram = window_spectrogram(recording)

    def tokenize(spectrogram: Spectrogram) -> tuple[Tensor, Tensor]:
        tokens = model.tokenize(spectrogram)
        ids = torch.from_numpy(tokens.ids.astype(np.int64)).flatten()[None]
        return ids, torch.from_numpy(tokens.mask).flatten()[None]

    def encode(dtype: str, ids_BL: Tensor, hidden_BL: Tensor) -> Tensor:
        with autocast(dtype):
            return encode_and_pool(model.encoder, ids_BL, hidden_BL, how="mean")

    def from_waveform(dtype: str) -> Tensor:
        return encode(dtype, *tokenize(window_spectrogram(recording)))

    tokens = tokenize(spectrogram)
    of_encoder, of_all = n_parameters(model.encoder), n_parameters(model.encoder, model.tokenizer)
    contenders = [
        Contender(
            f"{size}, from tokens", of_encoder, {d: lambda d=d: encode(d, *tokens) for d in DTYPES}
        ),
        Contender(
            f"{size}, from the waveform", of_all, {d: lambda d=d: from_waveform(d) for d in DTYPES}
        ),
        Contender(f"{size}, `CLEF.embed`", of_all, {"fp32": lambda: model.embed(recording)}),
    ]
    stages: list[tuple[str, Work]] = [
        ("spectrogram", lambda: window_spectrogram(recording)),
        ("tokenizer, fp32", lambda: tokenize(spectrogram)),
        *((f"encoder, {d}", lambda d=d: encode(d, *tokens)) for d in DTYPES),
    ]
    return contenders, stages


class Absent(ModuleType):
    """A module that cannot be loaded: its names can be imported and derived from, not used."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        path = f"{self.__name__}.{name}"

        def refuse(*_: object, **__: object) -> NoReturn:
            raise ImportError(f"{path} is used, but its module cannot be loaded here")

        return type(name, (), {"__init__": refuse})


def braindecode_models() -> ModuleType:
    """`braindecode.models`, which loads torchaudio, though neither of the two peers uses it.

    PyPI's torchaudio needs CUDA's libraries and so does not load beside the CPU build of torch.
    """
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        absent = Absent("torchaudio")
        sys.modules["torchaudio"] = absent
        for name in ("functional", "transforms"):
            part = Absent(f"torchaudio.{name}")
            sys.modules[part.__name__] = part
            setattr(absent, name, part)
    try:
        import braindecode.models
    except ImportError as error:
        raise SystemExit(f"{error}: pip install 'openclef[baselines]'") from error
    return braindecode.models


def peer(name: str, window_s: int, recording: Recording, batches: Sequence[int]) -> Contender:
    """A peer over the windows of the session; the mean of its features is the embedding."""
    n_times = round(window_s * SFREQ_HZ)
    # Microvolts / 100, as both were trained.
    signal = torch.from_numpy(recording.signal_uv) / 100
    signal = F.pad(signal, (0, -signal.shape[1] % n_times))
    x_WCS = signal.unflatten(1, (-1, n_times)).transpose(0, 1).contiguous()
    torch.manual_seed(0)
    models = braindecode_models()
    shape = {"n_chans": len(CHANNELS), "n_times": n_times, "sfreq": SFREQ_HZ, "n_outputs": 1}
    if name == "labram":
        model, options = models.Labram(**shape), {"ch_names": list(CHANNELS)}
    else:
        model, options = models.CBraMod(**shape, return_encoder_output=True), {}
    model.eval()

    def embed(dtype: str, size: int) -> Tensor:
        with autocast(dtype):
            features = [
                model(part, return_features=True, **options)["features"].float().flatten(1, -2)
                for part in x_WCS.split(size)
            ]
        return torch.cat(features).mean((0, 1))

    sizes = sorted({min(size, len(x_WCS)) for size in batches})
    ways = {f"{d}, {n} a batch": lambda d=d, n=n: embed(d, n) for d in DTYPES for n in sizes}
    title = f"{PEER_NAMES[name]}, {len(x_WCS)} windows of {window_s} s"
    return Contender(title, n_parameters(model), ways)


def seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def choose_way(contender: Contender) -> tuple[str, dict[str, float]]:
    """The fastest way, and the shorter of two runs of each."""
    tried = {way: min(seconds(work), seconds(work)) for way, work in contender.ways.items()}
    return min(tried, key=lambda way: tried[way]), tried


def rounds(works: dict[str, Work], n_rounds: int) -> dict[str, list[float]]:
    """Times of each, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(n_rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def told(times: Sequence[float]) -> str:
    return f"{np.median(times):.3f} | {min(times):.3f}-{max(times):.3f}"


def print_contenders(
    contenders: Sequence[Contender],
    chosen: dict[str, str],
    times: dict[str, list[float]],
    peers: dict[str, list[str]],
) -> None:
    """peers: names of the contenders that each peer's windows make."""
    best = {
        PEER_NAMES[name]: min(float(np.median(times[c])) for c in names)
        for name, names in peers.items()
    }
    heads = ["", "parameters", "s", "range", "fastest way", *(f"{p} / it" for p in best)]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for contender in contenders:
        taken = times[contender.name]
        ratios = [f"{peer_s / np.median(taken):.2f}" for peer_s in best.values()]
        cells = [
            contender.name, f"{contender.n_parameters / 1e6:.2f} M", told(taken),
            chosen[contender.name], *ratios,
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def print_tried(contenders: Sequence[Contender], tried: dict[str, dict[str, float]]) -> None:
    print("\n| | every way, the shorter of two runs, s |\n| --- | --- |")
    for contender in contenders:
        ways = "; ".join(f"{way}: {s:.3f}" for way, s in tried[contender.name].items())
        print(f"| {contender.name} | {ways} |")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["small", "base"])
    parser.add_argument("--peers", nargs="*", choices=PEER_WINDOWS_S, default=[*PEER_WINDOWS_S])
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 16, 64], help="of peers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recording = session()
    contenders, stages, peers = [], {}, {}
    for size in args.sizes:
        of_size, of_stages = ours(size, recording)
        contenders += of_size
        stages |= {f"{size} | {stage}": work for stage, work in of_stages}
    for name in args.peers:
        of_peer = [peer(name, s, recording, args.batches) for s in PEER_WINDOWS_S[name]]
        contenders += of_peer
        peers[name] = [contender.name for contender in of_peer]
    with threadpool_limits(args.threads):  # of the libraries below numpy; numba's work is on one
        chosen, tried = {}, {}
        for contender in contenders:
            chosen[contender.name], tried[contender.name] = choose_way(contender)
        works = {c.name: c.ways[chosen[c.name]] for c in contenders}
        times = rounds(works, args.repeats)
        of_stages = rounds(stages, args.repeats)
    print(f"Threads: {args.threads}; rounds: {args.repeats}; medians.\n")
    print_contenders(contenders, chosen, times, peers)
    print_tried(contenders, tried)
    print("\n| size | stage | s | range |\n| --- | --- | --- | --- |")
    for name, taken in of_stages.items():
        print(f"| {name} | {told(taken)} |")


if __name__ == "__main__":
    main()
