"""CLEF as one object: a recording in, one embedding out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.encoder.load import encoder_artefact, load_encoder
from openclef.encoder.pooling import Pooling, check_layer, encode_and_pool, n_vectors
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer
from openclef.encoder.windows import hour_of_day
from openclef.errors import ArtefactError, OpenclefError, RecordingError, choose
from openclef.signal import (
    detect_line_hz,
    implausible,
    open_recording,
    window_bounds_s,
    window_spectrogram,
)
from openclef.signal.gaps import recorded_stretches
from openclef.tokenizer.features import WHITENER, features_of
from openclef.tokenizer.tokens import tokenize_batch, tokenize_window
from openclef.tokenizer.train import TokenizerStage, check_finite, load_tokenizer, stack
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan
from openclef.tokenizer.whitener import Whitener, load_whitener
from openclef.training import checkpoint
from openclef.training.loop import best_device
from openclef.types import BoolArray, Embedding, FloatArray, Recording, Spectrogram, Tokens

WEIGHTS = "model.safetensors"
CARD = "README.md"
_FILES = ("config.json", "manifest.json", WEIGHTS, CARD)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class ModelConfig(BaseModel):
    """What rebuilds a model. pooling, layer: see `encoder.pooling.encode_and_pool`. is_aligned:
    whether reports and records moved the encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer: TokenizerConfig
    encoder: EncoderConfig
    pooling: Pooling
    layer: int = -1
    is_aligned: bool

    @property
    def n_features(self) -> int:
        """Width of an embedding."""
        n_regions, n_rows, _ = self.encoder.grid
        return self.encoder.width * n_vectors(self.pooling, n_regions * n_rows)


class CLEF:
    """Tokenizer and encoder with their pooling; made by `CLEF.from_pretrained(folder)`.

    whitener: of an encoder with continuous inputs. inputs: hashes of the artefacts it was packed
    from.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Vqgan,
        encoder: MaskedTransformer,
        *,
        whitener: Whitener | None,
        model_hash: str,
        inputs: Mapping[str, str],
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer.eval()
        self.encoder = encoder.eval()
        self.whitener = whitener
        self.hash = model_hash
        self.inputs = inputs

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Its modules by the prefix of their tensors."""
        return _parts(self.tokenizer, self.encoder, self.whitener)

    @property
    def device(self) -> torch.device:
        """Where it computes; what it takes and gives is on the CPU."""
        return self.encoder.class_token.device

    def to(self, device: str | torch.device | None) -> CLEF:
        """Move all its modules, and return itself. device: "cpu", "cuda", "cuda:1", ..; None: the
        best there is. Raises OpenclefError naming the nearest if there is no such device.
        """
        if isinstance(device, str):
            device = torch.device(choose(device, _devices(), "device"))
        for module in self.parts.values():
            module.to(best_device() if device is None else device)
        return self

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, *, revision: str | None = None) -> CLEF:
        """Load a model that `openclef pack` or `save_pretrained` wrote; every tensor must match.

        The weights are hashed, so that what is embedded tells truly what it comes from.

        Parameters
        ----------
        name_or_folder : str or Path
            A folder, or `owner/name` on the Hugging Face hub if there is no such folder here. The
            download (once, then cached) is all that leaves or enters the machine.
        revision : str, optional
            Branch, tag or commit on the hub; a folder has none.

        Raises
        ------
        ArtefactError
            Not a complete model, tensors that do not match, which are named, or weights or a
            configuration that were changed since `manifest.json` was written.
        OpenclefError
            The hub is needed and `huggingface_hub` is not installed, or it cannot give the model.
        """
        folder = _local_folder(name_or_folder, revision)
        source = artefact.load(folder, kind="model")
        config = artefact.read_config(source, ModelConfig)
        tokenizer, encoder = Vqgan(config.tokenizer), MaskedTransformer(config.encoder)
        whitener = (
            Whitener(config.tokenizer, config.encoder.patch_dim)
            if config.encoder.feature_dims
            else None
        )
        weights, _ = checkpoint.load_tensors(folder / WEIGHTS)
        parts = _parts(tokenizer, encoder, whitener)
        _check_tensors(weights, _tensors(parts), source=str(folder / WEIGHTS))
        source.check_unchanged()
        for prefix, module in parts.items():
            module.load_state_dict(checkpoint.take_prefix(weights, prefix))
        return cls(
            config, tokenizer, encoder,
            whitener=whitener, model_hash=source.hash, inputs=source.inputs,
        )  # fmt: skip

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `from_pretrained` loads: safetensors, JSON and a card, nothing pickled.

        An unchanged model keeps its hash. Raises ArtefactError if the folder holds anything else,
        or a complete model.
        """
        stage = artefact.begin(
            Path(folder),
            kind="model",
            config=self.config.model_dump(mode="json"),
            inputs=self.inputs,
        )
        if stage.is_complete:
            raise ArtefactError(f"{folder}: holds a complete model; choose another output folder")
        _write(stage, self.config, self.tokenizer, self.encoder, self.whitener)

    def embed(self, recording: Recording | str | Path, *, unit: str | None = None) -> Embedding:
        """Embed one recording, as read (it is filtered here): a `Recording` or a file's path.

        A long one is cut into windows of 1,280 s; its vector is the mean over them. A window
        without a visible token is NaN in `windows` and left out of the mean. unit: of a file's
        numbers ("uV", ..), whatever the file says. A sidecar's bad channels and units are not
        looked at (a cohort's are). Raises RecordingError as the readers do, or if no window of a
        `Recording` has the amplitudes of EEG in microvolts; OpenclefError if nothing is visible.
        """
        if isinstance(recording, Recording):
            cut = list(_cut(recording))
            problems = [implausible(window) for window in cut]
            if cut and all(problems):
                raise RecordingError(f"{problems[0]}")
            windows: Iterable[Recording] = [
                window for window, problem in zip(cut, problems, strict=True) if problem is None
            ]
        else:
            windows = open_recording(Path(recording), unit=unit).iter_windows()
        starts, vectors, visible = [], [], []
        line_hz = None
        for window in windows:
            spectrogram = window_spectrogram(window, line_hz=line_hz)
            line_hz = line_hz or detect_line_hz(window)  # the first window's, as in a cohort
            starts.append(window.start_s)
            hour = hour_of_day(window.start_time, window.start_s)
            vector, is_visible = self.embed_batch([spectrogram], [hour])
            vectors.append(vector[0])
            visible.append(bool(is_visible[0]))
        if not any(visible):
            raise OpenclefError(
                "nothing is visible in this recording: every token is hidden (one spans "
                f"{self.config.tokenizer.frames_per_token} s, of which half must be recorded and "
                "2 s away from gaps and the end)"
            )
        stacked = np.stack(vectors)
        return Embedding(
            vector=stacked[visible].mean(axis=0),
            windows=stacked,
            window_starts_s=np.array(starts, dtype=np.float32),
            model_hash=self.hash,
        )

    def tokenize(self, spectrogram: Spectrogram) -> Tokens:
        """Tokens of one window of full length; their `tokenizer_hash` is the model's."""
        return tokenize_window(self.tokenizer, spectrogram, tokenizer_hash=self.hash)

    def embed_spectrogram(
        self, spectrogram: Spectrogram, *, hour: float = float("nan")
    ) -> FloatArray:
        """Vector `[D]` of one window of full length, NaN if no token of it is visible.

        hour: of the day at its start, NaN if unknown; read by an encoder with a clock only. Raises
        OpenclefError if a visible value is not finite.
        """
        vectors, _ = self.embed_batch([spectrogram], [hour])
        vector: FloatArray = vectors[0]
        return vector

    @torch.no_grad()
    def embed_batch(
        self, spectrograms: Sequence[Spectrogram], hours: Sequence[float]
    ) -> tuple[FloatArray, BoolArray]:
        """Vectors `[B, D]` as of `embed_spectrogram`, and which windows show a token, `[B]`."""
        for spectrogram in spectrograms:
            check_finite(spectrogram)
        batch = stack(list(spectrograms))
        ids_BRFTQ, hidden_BRT = tokenize_batch(self.tokenizer, batch)
        hidden_BL = hidden_BRT[:, :, None, :].expand(ids_BRFTQ.shape[:-1]).flatten(1)
        hour_B = torch.tensor(hours, dtype=torch.float32)
        companions = {"channel_mask": batch["channel_mask"], "hour": hour_B}
        if self.whitener is not None:
            companions |= features_of(self.tokenizer, self.whitener, batch)
        pooled = encode_and_pool(
            self.encoder,
            ids_BRFTQ.flatten(1).to(self.device),
            hidden_BL.to(self.device),
            how=self.config.pooling,
            layer=self.config.layer,
            companions={name: value.to(self.device) for name, value in companions.items()},
        )
        return pooled.cpu().numpy(), (~hidden_BL.all(1)).numpy()

    @torch.no_grad()
    def reconstruct(self, tokens: Tokens) -> FloatArray:
        """Decibels `[19, 128, 1280]` that the tokens of a window stand for."""
        ids = torch.from_numpy(tokens.ids.astype(np.int64))[None]
        hidden = torch.from_numpy(tokens.mask[:, 0])[None]
        power_db = self.tokenizer.reconstruct(ids.to(self.device), hidden.to(self.device))
        decoded: FloatArray = power_db[0].cpu().numpy()
        return decoded


def _devices() -> list[str]:
    """Devices that there are, as `torch.device` names them."""
    n_gpus = torch.cuda.device_count()
    numbered = [f"cuda:{index}" for index in range(n_gpus)]
    return ["cpu", *(["cuda"] if n_gpus else []), *numbered]


def _cut(recording: Recording) -> Iterator[Recording]:
    """Windows of 1,280 s of a recording in memory: those in which its file would be read."""
    stretches = recorded_stretches(
        recording.gaps, sfreq_hz=recording.sfreq_hz, n_times=recording.signal_uv.shape[1]
    )
    segments = [
        (first / recording.sfreq_hz, stop / recording.sfreq_hz) for first, stop in stretches
    ]
    if not segments:
        return
    for start_s, stop_s in window_bounds_s(recording.duration_s, segments=segments):
        first, last = (round(t * recording.sfreq_hz) for t in (start_s, stop_s))
        gaps = tuple(
            (max(a, start_s) - start_s, min(b, stop_s) - start_s)
            for a, b in recording.gaps
            if a < stop_s and b > start_s
        )
        signal_uv = recording.signal_uv[:, first:last]
        yield replace(
            recording, signal_uv=signal_uv, gaps=gaps, start_s=recording.start_s + start_s
        )


def pack(
    tokenizer_folder: Path, encoder_folder: Path, out: Path, *, pooling: Pooling, layer: int = -1
) -> Artefact:
    """Stage: tokenizer + encoder (or aligned) -> `model/`, all that embedding needs.

    Raises ArtefactError if the encoder was trained on tokens of another tokenizer, OpenclefError if
    it has no such layer.
    """
    tokenizer_source = artefact.load(tokenizer_folder, kind="tokenizer")
    encoder_source = encoder_artefact(encoder_folder)
    if encoder_source.inputs["tokenizer"] != tokenizer_source.hash:
        raise ArtefactError(f"{encoder_folder}: trained on tokens of another tokenizer")
    tokenizer, encoder = load_tokenizer(tokenizer_folder), load_encoder(encoder_folder)
    check_layer(encoder, layer)
    config = ModelConfig(
        tokenizer=artefact.read_config(tokenizer_source, TokenizerStage).model,
        encoder=encoder.config,
        pooling=pooling,
        layer=layer,
        is_aligned=encoder_source.kind == "aligned",
    )
    stage = artefact.begin(
        out,
        kind="model",
        config=config.model_dump(mode="json"),
        inputs={"tokenizer": tokenizer_source.hash, encoder_source.kind: encoder_source.hash},
    )
    if stage.is_complete:
        return stage
    whitener = (
        load_whitener(encoder_folder / WHITENER, tokenizer.config)
        if encoder.config.feature_dims
        else None
    )
    _write(stage, config, tokenizer, encoder, whitener)
    return stage


def _write(
    stage: Artefact,
    config: ModelConfig,
    tokenizer: Vqgan,
    encoder: MaskedTransformer,
    whitener: Whitener | None,
) -> None:
    tensors = _tensors(_parts(tokenizer, encoder, whitener))
    checkpoint.save_tensors(stage.folder / WEIGHTS, tensors)
    with atomic(stage.folder / CARD) as temporary:
        temporary.write_text(_card(config, tokenizer, encoder))
    stage.finish([WEIGHTS])


def _parts(
    tokenizer: Vqgan, encoder: MaskedTransformer, whitener: Whitener | None
) -> dict[str, nn.Module]:
    """Modules of a model by the prefix of their tensors."""
    parts: dict[str, nn.Module] = {"tokenizer": tokenizer, "encoder": encoder}
    return parts if whitener is None else {**parts, "whitener": whitener}


def _tensors(parts: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    return {
        name: value
        for prefix, module in parts.items()
        for name, value in checkpoint.add_prefix(module.state_dict(), prefix).items()
    }


def _check_tensors(
    given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], *, source: str
) -> None:
    """Raise ArtefactError, naming them, if tensors are missing, unknown or of another shape."""
    shared = given.keys() & own.keys()
    wrong = {
        "missing": own.keys() - shared,
        "unknown": given.keys() - shared,
        "of another shape": {name for name in shared if given[name].shape != own[name].shape},
    }
    if any(wrong.values()):
        told = "; ".join(f"{how}: {', '.join(sorted(s))}" for how, s in wrong.items() if s)
        raise ArtefactError(
            f"{source}: tensors do not match the model's {len(own)}; nothing was loaded; {told}"
        )


def _local_folder(name_or_folder: str | Path, revision: str | None) -> Path:
    """The folder itself, or where a model of the hub was downloaded to."""
    folder, name = Path(name_or_folder), str(name_or_folder)
    if folder.is_dir() or not _HUB_ID.fullmatch(name):
        if revision is not None:
            raise OpenclefError(
                f"{name}: revision {revision!r} of a folder; only a model on the hub "
                "(owner/name) has revisions"
            )
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise OpenclefError(
            f"{name}: no such folder; to load it from the Hugging Face hub, "
            "pip install 'openclef[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:  # what the hub's errors derive from
        at = "" if revision is None else f" at revision {revision!r}"
        raise OpenclefError(
            f"{name}: no such folder, and the Hugging Face hub does not give it{at} "
            f"({type(error).__name__})"
        ) from error


def _card(config: ModelConfig, tokenizer: Vqgan, encoder: MaskedTransformer) -> str:
    n_tokenizer, n_encoder = (sum(p.numel() for p in m.parameters()) for m in (tokenizer, encoder))
    grid = " x ".join(str(size) for size in config.tokenizer.grid)
    aligned = (
        "aligned with reports and records" if config.is_aligned else "masked reconstruction only"
    )
    return (
        "# openclef model\n\n"
        f"- input: 19 channels (10-20), windows of 1,280 s; tokens: {grid} (regions, "
        f"frequency, time), {config.tokenizer.quantiser.n_codes} codes\n"
        f"- tokenizer: {n_tokenizer:,} parameters; encoder: {n_encoder:,} parameters, {aligned}\n"
        f"- embedding: pooled by {config.pooling!r}, layer {config.layer}\n"
        "- not a medical device: for research, never for decisions about a patient\n\n"
        "```python\nimport openclef\n\nmodel = openclef.CLEF.from_pretrained('this folder')\n"
        "embedding = model.embed(openclef.read_recording('session.edf'))\n```\n"
    )
