"""What the tokenizer is given: multitaper decibels against a plain STFT and against raw power.

    python benchmarks/tokenizer_inputs.py HOSPITAL COHORT OUT [--recipe small] [--seed 0]

HOSPITAL is simulated (`openclef simulate HOSPITAL --no-recordings`), COHORT its complete cohort.
Two more are made of it that differ in the spectrograms alone; rows, splits, masks and labels stay:

- `stft`: one Hann-windowed periodogram a frame in place of four tapers, in dB, at the same frames
  and frequencies, of the same recordings, filtered alike;
- `power`: the cohort's own multitaper power, not as decibels. The tokenizer clamps to [-40, 40]:
  40 is the 99.9th percentile of the train patients' power, 0 is none. Below 0 nothing is used, for
  float16 has its fine steps around 0: over [-40, 40] it would lose what lies 34 dB below the top.
  The tokenizer's norm takes no deviation for less than .4, so that quiet frequencies stay small.

The recipe's tokenizer is trained on each. Whatever is reported is of held-out patients and in dB:
what is decoded from `power` is mapped back, clipped to the 0.1st percentile of the train patients'
power, and held against the cohort's own decibels. `kept` is the share of the findings' AUROC above
chance that a probe on the decoded mean and deviation has, relative to the same probe on those of
the original multitaper spectrogram in all three rows.

Needs 6.2 MB of disk a window for each cohort made: two, or three with `--sessions N`, which takes
about N sessions, of random patients of every split. What is complete is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.signal
from rich.progress import track

from openclef import artefact
from openclef.artefact import atomic, write_json
from openclef.benchmark.information import share_above_chance
from openclef.benchmark.rivals.handcrafted import embed_handcrafted, spectrum_mean_sd
from openclef.benchmark.runner import BenchmarkConfig, benchmark
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.engine import LocalEngine, WorkerDied
from openclef.cohort.layouts import read_source
from openclef.cohort.session import part_path, power_path, read_part
from openclef.cohort.shards import WINDOW_BYTES, create_array, plan_shards, write_shard
from openclef.cohort.sidecars import read_channels_tsv
from openclef.cohort.store import Cohort
from openclef.cohort.tables import write_table
from openclef.errors import OpenclefError
from openclef.recipes.recipe import changed
from openclef.recipes.simulated import recording_at
from openclef.recipes.tokenizers import get_tokenizer
from openclef.signal import open_recording, preprocess
from openclef.signal.formats import window_bounds_s
from openclef.signal.fused import FLOOR_UV2_HZ
from openclef.signal.multitaper import MAX_FREQ_HZ, STEP_S
from openclef.signal.multitaper import WINDOW_S as FRAME_S
from openclef.signal.spectrogram import HIDDEN_DB
from openclef.simulate import expected_recordings
from openclef.tokenizer.evaluate import Decoded, Fidelity, decode_windows, measure, train_mean_db
from openclef.tokenizer.train import load_tokenizer, train_tokenizer
from openclef.tokenizer.vqgan import CLAMP_DB
from openclef.types import SFREQ_HZ, SPLITS, WINDOW_S, FloatArray, Recording

REFERENCE = "spectrum_mean_sd"
COLUMNS = (
    "input", "n_tokens", "usage", "perplexity", "r2", "mean_r2", "residual_r2", "mae_db",
    "kept", "kept_low", "kept_high", "n_tasks",
)  # fmt: skip
TABLES = ("sessions", "labels", "findings", "reports", "codes")  # besides windows


@dataclass(frozen=True)
class PowerScale:
    """Decibels <-> linear power in the tokenizer's range: `top_db` is 40, no power is 0.

    floor_db: what anything weaker, and what is decoded as negative, is read as.
    """

    floor_db: float
    top_db: float

    def power(self, power_db: FloatArray) -> FloatArray:
        relative: FloatArray = np.power(10, (power_db.clip(max=self.top_db) - self.top_db) / 10)
        return relative * np.float32(CLAMP_DB)

    def decibels(self, power: FloatArray) -> FloatArray:
        weakest = 10 ** ((self.floor_db - self.top_db) / 10)
        power_db: FloatArray = self.top_db + 10 * np.log10((power / CLAMP_DB).clip(weakest))
        return power_db


@dataclass(frozen=True)
class Derivation:
    """A session of `cohort` whose spectrograms are to be made anew in `out`, as `kind`."""

    session_id: str
    kind: str
    hospital: Path
    cohort: Path
    out: Path
    scale: PowerScale


@lru_cache(maxsize=1)
def open_cohort(folder: Path) -> Cohort:
    """One a worker, for all its sessions."""
    return Cohort(folder)


def derive_session(job: Derivation) -> None:
    """Put a session's windows aside, as an ingest does: the spectrograms, then their hashes."""
    cohort = open_cohort(job.cohort)
    mine = pl.col("session_id") == job.session_id
    windows = cohort.windows.filter(mine).sort("row")
    originals = (cohort.spectrogram(row) for row in windows["row"])
    made: Iterator[FloatArray]
    if job.kind == "stft":
        session = cohort.sessions.filter(mine).row(0, named=True)
        line_hz = json.loads(session["quality"])["line_hz_removed"]
        recordings = read_windows(job, cohort, session, windows["start_s"].to_list())
        made = (stft_db(preprocess(recording, line_hz=line_hz)) for recording in recordings)
    elif job.kind == "power":
        made = (job.scale.power(cohort.spectrogram(row).power_db) for row in windows["row"])
    else:
        made = (cohort.spectrogram(row).power_db for row in windows["row"])
    hashes = []
    with atomic(power_path(job.out, job.session_id)) as temporary, temporary.open("wb") as file:
        for original, values in zip(originals, made, strict=True):
            hidden = original.channel_mask[:, None, None] | original.time_mask
            stored = np.where(hidden, HIDDEN_DB, values).astype(np.float16)
            file.write(stored.data)
            hashes.append(hashlib.sha256(stored.data).hexdigest()[:16])
    write_json(part_path(job.out, job.session_id), {"hashes": hashes})


def read_windows(
    job: Derivation, cohort: Cohort, session: dict[str, Any], starts_s: list[float]
) -> Iterator[Recording]:
    """The windows of a session as the ingest of `cohort` read them; the recording is dropped."""
    path = job.hospital / session["path"]
    with recording_at(job.hospital, path):
        sidecar = read_channels_tsv(path)
        file = open_recording(
            path,
            unit=cohort.artefact.config["unit"],
            units_beside=sidecar.units if sidecar else {},
            bad=sidecar.bad if sidecar else (),
        )
        end_s = session["duration_s"]  # cropped, if the cohort's were
        segments = [(a, min(b, end_s)) for a, b in file.segments if a < end_s]
        stops_s = dict(window_bounds_s(end_s, segments=segments))
        for start_s in starts_s:
            yield file.read(start_s=start_s, stop_s=stops_s[start_s])


def stft_db(recording: Recording) -> FloatArray:
    """Periodograms of a preprocessed window, `[19, 128, 1280]` in dB: the frames and bins of
    `signal.spectrogram`, whose one-sided density and reflected ends are the same."""
    n_frame, n_step = round(FRAME_S * SFREQ_HZ), round(STEP_S * SFREQ_HZ)
    n_freqs = round(MAX_FREQ_HZ * FRAME_S)
    n_given = recording.signal_uv.shape[1] // n_step
    power_db = np.full((len(recording.ch_names), n_freqs, WINDOW_S), HIDDEN_DB, np.float32)
    for row, signal in enumerate(recording.signal_uv):
        padded = np.pad(signal.astype(np.float64), n_frame // 2, mode="reflect")
        _, _, psd = scipy.signal.spectrogram(
            padded, SFREQ_HZ, "hann", n_frame, n_frame - n_step, detrend="constant"
        )
        power_db[row, :, :n_given] = 10 * np.log10(psd[:n_freqs, :n_given] + FLOOR_UV2_HZ)
    return power_db


def choose_sessions(cohort: Cohort, n_sessions: int | None) -> pl.DataFrame:
    """All, or about `n_sessions`: of random patients of every split, always the same."""
    sessions = cohort.sessions
    if n_sessions is None or n_sessions >= sessions.height:
        return sessions
    rng = np.random.default_rng(0)
    chosen: list[int] = []
    for split in SPLITS:
        patients = sessions.filter(pl.col("split") == split)["subject_id"].unique().sort()
        n_patients = max(1, round(len(patients) * n_sessions / sessions.height))
        chosen += rng.choice(patients.to_numpy(), n_patients, replace=False).tolist()
    return sessions.filter(pl.col("subject_id").is_in(chosen))


def find_scale(cohort: Cohort, sessions: pl.DataFrame) -> PowerScale:
    """The 0.1st and 99.9th percentile of power over what is visible of train patients.

    Percentiles pass through the logarithm: those of decibels, to .01 dB.
    """
    train = sessions.filter(pl.col("split") == "train")
    rows = cohort.windows.join(train.select("session_id"), on="session_id")["row"].sort()
    counts = np.zeros(2 * round(100 * CLAMP_DB) + 1, np.int64)
    for row in rows:
        window = cohort.spectrogram(row)
        shown = window.power_db[~window.channel_mask][..., ~window.time_mask]
        hundredths = np.rint(100 * (shown.clip(-CLAMP_DB, CLAMP_DB) + CLAMP_DB)).astype(np.int64)
        counts += np.bincount(hundredths.ravel(), minlength=len(counts))
    below = np.cumsum(counts) / counts.sum()
    floor_db, top_db = (np.searchsorted(below, [0.001, 0.999]) / 100 - CLAMP_DB).tolist()
    return PowerScale(floor_db, top_db)


def derive_cohort(
    kind: str, cohort: Cohort, out: Path, args: argparse.Namespace, sessions: pl.DataFrame,
    scale: PowerScale,
) -> Cohort:  # fmt: skip
    """Write the cohort of one kind of input to `out`, or finish it."""
    config = {"input": kind, "sessions": args.sessions}
    if kind == "power":
        config |= {"floor_db": scale.floor_db, "top_db": scale.top_db}
    stage = artefact.begin(out, kind="cohort", config=config, inputs={"cohort": cohort.hash})
    if stage.is_complete:
        return Cohort(out)
    artefact.remove_stale(out)
    jobs = [
        Derivation(name, kind, args.hospital, cohort.folder, out, scale)
        for name in sessions["session_id"]
        if not part_path(out, name).exists()
    ]
    with LocalEngine(n_workers=args.workers) as workers:
        for job, result in track(workers.map(derive_session, jobs), kind, len(jobs)):
            if isinstance(result, WorkerDied):
                raise OpenclefError(f"{job.session_id}: making its {kind} ended the process, twice")
    write_array(out, sessions)
    names = sessions["session_id"].to_list()
    for name in TABLES:
        key = "subject_id" if name == "codes" else "session_id"
        kept = cohort.table(name).filter(pl.col(key).is_in(sessions[key].unique().to_list()))
        write_table(out / f"{name}.parquet", kept)
    hashes = [digest for name in names for digest in read_part(part_path(out, name))["hashes"]]
    windows = cohort.windows.sort("row").filter(pl.col("session_id").is_in(names))
    windows = windows.with_columns(row=pl.int_range(pl.len()), hash=pl.Series(hashes))
    write_table(out / "windows.parquet", windows)
    stage.finish(f"{name}.parquet" for name in ("windows", *TABLES))
    shutil.rmtree(out / "parts")
    return Cohort(out)


def write_array(out: Path, sessions: pl.DataFrame) -> None:
    """Make shards of what the sessions put aside, which is let go with the last that needs it."""
    counts = sessions.select("session_id", "n_windows").iter_rows()
    pairs = [(power_path(out, name), n_windows) for name, n_windows in counts]
    create_array(out / "spectrograms", n_rows=sum(n_windows for _, n_windows in pairs))
    waiting = [job for job in plan_shards(out / "spectrograms", pairs) if not job.path.exists()]
    users = Counter(path for job in waiting for path in job.sources)
    for job in waiting:
        write_shard(job)
        for path in job.sources:
            users[path] -= 1
            if not users[path]:
                path.unlink(missing_ok=True)


def evaluate(
    name: str, cohort: Cohort, reference: Cohort, folder: Path, *, in_db: Cohort,
    to_db: Callable[[FloatArray], FloatArray],
) -> dict[str, Any]:  # fmt: skip
    """Write the embedding of what is decoded, for the probe, and what is kept of held-out windows.

    in_db: the cohort that holds the input in decibels, about whose train patients' mean variance is
    taken; the input's own, but for power.
    """
    source = artefact.load(folder / "tokenizer", kind="tokenizer")
    inputs = {"cohort": reference.hash, "tokenizer": source.hash}  # the same sessions and windows
    stage = begin_embeddings(folder / "decoded", model=name, inputs=inputs)
    if not stage.is_complete:
        vectors: dict[int, FloatArray] = {}
        held_out = set(cohort.rows("held_out").tolist())
        tokenizer = load_tokenizer(folder / "tokenizer")

        def held_out_windows() -> Iterator[Decoded]:
            rows = cohort.rows("probe", "tuning", "held_out")
            for window in decode_windows(tokenizer, cohort, rows):
                power_db = to_db(window.power_db)
                decoded = replace(window.original, power_db=power_db)
                vectors[window.row] = np.stack(spectrum_mean_sd(decoded)).ravel()
                if window.row in held_out:
                    yield replace(window, original=in_db.spectrogram(window.row), power_db=power_db)

        write_json(
            folder / "fidelity.json",
            numbers(measure(tokenizer, held_out_windows(), mean_db=train_mean_db(in_db))),
        )
        windows = cohort.windows.sort("row").filter(pl.col("row").is_in(list(vectors)))
        write_embeddings(
            stage.folder / TABLE,
            session_id=windows["session_id"].to_list(),
            window=windows["window"].cast(pl.Int64).to_numpy(),
            start_s=windows["start_s"].cast(pl.Float64).to_numpy(),
            vectors=np.stack([vectors[row] for row in windows["row"]]),
            hashes=stage.inputs,
        )
        stage.finish([TABLE])
    found: dict[str, Any] = json.loads((folder / "fidelity.json").read_text())
    return found


def numbers(fidelity: Fidelity) -> dict[str, Any]:
    error = (fidelity.mean_error + fidelity.residual_error).sum()
    variance = (fidelity.mean_variance + fidelity.residual_variance).sum()
    return {
        "n_tokens": fidelity.n_tokens,
        "usage": min(fidelity.usage),
        "perplexity": min(fidelity.perplexity),
        "r2": 1 - float(error / variance),
        "mean_r2": fidelity.mean_r2,
        "residual_r2": fidelity.residual_r2,
        "mae_db": float(fidelity.absolute_db.sum() / fidelity.n.sum()),
    }


def compare(args: argparse.Namespace) -> pl.DataFrame:
    """One row an input."""
    cohort = Cohort(args.cohort)
    asked = {name: cohort.artefact.config[name] for name in ("layout", "labels")}
    hospital = read_source(args.hospital, **asked, expected=expected_recordings(args.hospital))
    if hospital.hash() != cohort.artefact.inputs["source"]:
        raise OpenclefError(f"{args.cohort}: not the cohort of {args.hospital}")
    stage = get_tokenizer(args.recipe)
    stage = changed(stage, train=changed(stage.train, seed=args.seed))
    sessions = choose_sessions(cohort, args.sessions)
    is_whole = sessions.height == cohort.sessions.height
    kinds = ("stft", "power") if is_whole else ("multitaper", "stft", "power")
    folders = {kind: args.out / "cohorts" / kind for kind in kinds}
    n_missing = sum(not (folder / "manifest.json").exists() for folder in folders.values())
    needed = n_missing * int(sessions["n_windows"].sum()) * WINDOW_BYTES
    print(f"{sessions.height} sessions, {n_missing} cohorts to make: {needed / 1e9:.1f} GB")
    if not args.out.exists():  # what is half done has taken its share
        artefact.check_free_disk(args.out, needed)
    scale = find_scale(cohort, sessions)
    print(f"power: {scale.top_db:.2f} dB is the top, {scale.floor_db:.2f} dB the floor", flush=True)
    cohorts = {"multitaper": cohort} | {
        kind: derive_cohort(kind, cohort, folder, args, sessions, scale)
        for kind, folder in folders.items()
    }
    reference = cohorts["multitaper"]
    embed_handcrafted(reference, args.out / "original")
    embeddings = [args.out / "original" / REFERENCE]
    run = args.out / args.recipe / f"seed-{args.seed}"
    measured: dict[str, dict[str, Any]] = {}
    for name, given in cohorts.items():
        print(f"{name}: training", flush=True)
        folder = run / name
        train_tokenizer(given, folder / "tokenizer", config=stage)
        is_power = name == "power"
        measured[name] = evaluate(
            name, given, reference, folder,
            in_db=reference if is_power else given,
            to_db=scale.decibels if is_power else lambda power_db: power_db,
        )  # fmt: skip
        embeddings.append(folder / "decoded")
    probed = BenchmarkConfig(
        categories=("finding",), protocol="split", min_held_out_patients=1,
        min_positives=args.min_positives, n_resamples=100,
    )  # fmt: skip
    benchmark(reference.folder, embeddings, run / "benchmark", config=probed)
    predictions = pl.read_parquet(run / "benchmark" / "predictions.parquet")
    patients = dict(reference.sessions.select("session_id", "subject_id").iter_rows())
    tasks = predictions["task"].unique().sort().to_list()
    if not tasks:
        raise OpenclefError(f"no finding has {args.min_positives} held-out patients of either kind")
    rows = []
    for name, found in measured.items():
        kept = share_above_chance(predictions, patients, model=name, reference=REFERENCE,
                                  tasks=tasks)  # fmt: skip
        rows.append({"input": name, **found, "kept": kept.value, "kept_low": kept.low,
                     "kept_high": kept.high, "n_tasks": kept.n_tasks})  # fmt: skip
    table = pl.DataFrame(rows).select(COLUMNS)
    with atomic(run / "inputs.csv") as temporary:
        table.write_csv(temporary, float_precision=4)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hospital", type=lambda path: Path(path).absolute())
    parser.add_argument("cohort", type=lambda path: Path(path).absolute())
    parser.add_argument("out", type=lambda path: Path(path).absolute())
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sessions", type=int, help="about so many, of every split; default: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--min-positives", type=int, default=15, help="patients of either class")
    table = compare(parser.parse_args())
    with pl.Config(tbl_rows=-1, tbl_cols=-1, float_precision=3, tbl_width_chars=160):
        print(table)


if __name__ == "__main__":
    main()
