"""The types that data flows through: Recording -> Spectrogram -> Tokens -> Embedding -> TaskResult.

`Report` and `CodeEvents` join at alignment. Only numpy is needed here. Axis letters: B batch,
C channel, S sample, F frequency, T frame, L token, D width, W window. **Masks: True = hidden**,
for channels, frames and tokens alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

# Order of the paper's authors (paper.md, Signal [C]); T3=T7, T4=T8, T5=P7, T6=P8.
CHANNELS = (
    "O1", "O2", "T6", "P4", "Pz", "P3", "T5", "T3", "C3", "Cz",
    "C4", "T4", "F8", "F4", "Fz", "F3", "F7", "Fp1", "Fp2",
)  # fmt: skip
# Homologous channels, left and right in the same order.
LEFT = ("Fp1", "F7", "F3", "T3", "C3", "T5", "P3", "O1")
RIGHT = ("Fp2", "F8", "F4", "T4", "C4", "T6", "P4", "O2")
SFREQ_HZ = 200.0
WINDOW_S = 1280
MIN_LAST_WINDOW_S = 60.0
MIN_RECORDING_S = 4.0
SPLITS = ("train", "probe", "tuning", "held_out")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, eq=False)
class Recording:
    """One window of a session, or a short file.

    signal_uv: `[C, S]` float32, microvolts, at `sfreq_hz`. ch_names: canonical 10-20 names, one a
    row. channel_mask: `[C]`, True where the channel is missing and zero-filled. gaps: (start, stop)
    in seconds from the start of this window where nothing was recorded. start_s: offset of this
    window in its file. start_time: wall clock of the file's start, if the header has a valid one.
    provenance: short notes on how the signal was read (format, reference, renamed channels).
    """

    signal_uv: FloatArray
    sfreq_hz: float
    ch_names: tuple[str, ...]
    channel_mask: BoolArray
    gaps: tuple[tuple[float, float], ...] = ()
    start_s: float = 0.0
    start_time: datetime | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.signal_uv.ndim == 2, f"signal_uv must be [C, S], got {self.signal_uv.shape}")
        n_chans = self.signal_uv.shape[0]
        _check(len(self.ch_names) == n_chans, f"{len(self.ch_names)} names for {n_chans} channels")
        _check(self.channel_mask.shape == (n_chans,), "channel_mask must be [C]")
        _check(self.sfreq_hz > 0, f"sfreq_hz must be positive, got {self.sfreq_hz}")

    @property
    def duration_s(self) -> float:
        return self.signal_uv.shape[1] / self.sfreq_hz


@dataclass(frozen=True, eq=False)
class Spectrogram:
    """Multitaper power of one window.

    power_db: `[C, F, T]` float32, 10 log10(uV^2/Hz), unclamped. freqs_hz `[F]`. times_s `[T]`:
    centre of each frame from the start of the window. channel_mask `[C]`, time_mask `[T]`.
    """

    power_db: FloatArray
    freqs_hz: FloatArray
    times_s: FloatArray
    channel_mask: BoolArray
    time_mask: BoolArray

    def __post_init__(self) -> None:
        c, f, t = self.power_db.shape
        _check(self.freqs_hz.shape == (f,), "freqs_hz must be [F]")
        _check(self.times_s.shape == (t,), "times_s must be [T]")
        _check(self.channel_mask.shape == (c,), "channel_mask must be [C]")
        _check(self.time_mask.shape == (t,), "time_mask must be [T]")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Discrete tokens of one window.

    ids: `[R, Fp, Tp, Q]` uint16, Q codes a token (1 but for residual and product codes), 0 where
    hidden. mask: `[R, Fp, Tp]`, True = hidden: a region's columns are hidden as a whole.
    """

    ids: NDArray[np.uint16]
    mask: BoolArray
    tokenizer_hash: str

    def __post_init__(self) -> None:
        _check(self.mask.ndim == 3, f"mask must be [R, Fp, Tp], got {self.mask.shape}")
        _check(self.ids.shape[:-1] == self.mask.shape, "ids must be [R, Fp, Tp, Q], as the mask")


@dataclass(frozen=True, eq=False)
class Embedding:
    """One session: vector `[D]`, its windows `[W, D]` and their starts `[W]` in seconds."""

    vector: FloatArray
    windows: FloatArray
    window_starts_s: FloatArray
    model_hash: str


@dataclass(frozen=True)
class Report:
    """A neurologist's report of one session, as written."""

    session_id: str
    text: str


@dataclass(frozen=True)
class CodeEvents:
    """A patient's codes: (code, time or None for a static or undated one), MEDS style."""

    subject_id: int
    events: tuple[tuple[str, datetime | None], ...]


@dataclass(frozen=True)
class TaskResult:
    """One number of the benchmark, with its interval and what it depends on."""

    task: str
    category: str
    model: str
    protocol: str
    split: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n_pos: int
    n_neg: int
    seed: int
    subgroup: str = "all"
    n_shots: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)


class Objective(Protocol):
    """A model and its loss (a `torch.nn.Module`), all that the training loop knows of either.

    `losses(batch, rng)` takes a batch dict and gives a dict of finite scalars, of which "loss" is
    minimised; all its randomness but dropout comes from `rng`.

    In training with several processes each is given its part of the batch, the same `rng`, and
    must give the same names. What is logged is the mean over processes, and gradients are averaged:
    a mean over items is the global one if each process gives (number of processes) x (sum over its
    items) / (count over all items), the count by `training.distributed.all_sum`. Buffers must
    come out equal on all. Validation batches are given whole, to a process that counts as alone.
    """

    def losses(
        self, batch: Mapping[str, torch.Tensor], rng: torch.Generator
    ) -> dict[str, torch.Tensor]: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def train(self) -> Any: ...

    def eval(self) -> Any: ...

    def to(self, device: torch.device) -> Any: ...


@runtime_checkable
class PhasedObjective(Objective, Protocol):
    """An objective whose losses of one phase of training are not comparable with another's.

    Patience counts in the last one alone.
    """

    @property
    def phase(self) -> int: ...

    @property
    def last_phase(self) -> int: ...


@runtime_checkable
class GroupedObjective(Objective, Protocol):
    """An objective with parts whose gradients are clipped apart, such as an adversary."""

    def parameter_groups(self) -> list[list[torch.nn.Parameter]]: ...
