"""How hard are the tasks of the simulated hospital, and is there time structure to learn?

    python benchmarks/hospital_difficulty.py OUT --patients 3000 --seed 11 [--hospital v1]

No model of ours takes part. A hospital is simulated, ingested (each recording made when it is read
and dropped), and its tasks are probed as the benchmark does, on held-out patients, from

- `demographics`, `band_power`, `spectrum_mean_sd`: the hand-crafted baselines;
- `oracle_findings`: which findings are there, how strong, how often;
- `oracle_events`: rates, lengths, sizes, timing, sides and states of the true events alone. No
  spectrum: what a perfect reader of everything that happens could tell.

Prints means by category, the null tasks, and on how many tasks the events beat the spectrum by .10.
Needs 6.2 MB of disk a session; `--drop` deletes the spectrograms at the end.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl
from hospital_oracle import KEY, event_features

from openclef.benchmark.rivals.handcrafted import embed_handcrafted
from openclef.benchmark.runner import BenchmarkConfig, benchmark
from openclef.cohort.embeddings import TABLE, begin_embeddings, write_embeddings
from openclef.cohort.engine import LocalEngine
from openclef.cohort.ingest import IngestConfig, ingest
from openclef.cohort.splits import SplitConfig
from openclef.cohort.store import Cohort
from openclef.recipes.simulated import open_data_set
from openclef.simulate import SimulationConfig, simulate
from openclef.simulate.parameters import load_hospital

MARGIN = 0.10


def read_truth(hospital: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events (length_s is an event's, duration_s will be the session's) and true sessions."""
    events = pl.concat(
        pl.read_parquet(path) for path in sorted((hospital / "truth" / "events").glob("*.parquet"))
    ).rename({"duration_s": "length_s"})
    return events, pl.read_parquet(hospital / "truth" / "sessions.parquet")


def embed_oracles(hospital: Path, cohort: Cohort, out: Path) -> list[Path]:
    """Write the two oracles as embeddings of a cohort."""
    events, truth = read_truth(hospital)
    sessions = truth.select(*KEY, "duration_s")
    findings = [c for c in truth.columns if c.endswith(("_strength", "_rate"))]
    tables = {
        "oracle_events": event_features(events, sessions),
        "oracle_findings": truth.select(*KEY, pl.col(findings).fill_null(0.0)),
    }
    paths = cohort.sessions.select("session_id", "path").with_columns(
        participant_id=pl.col("path").str.extract(r"(sub-[^/_]+)"),
        name=pl.col("path").str.extract(r"(ses-[^/_]+)"),
    )
    folders = []
    for model, table in tables.items():
        rows = paths.join(
            table, left_on=["participant_id", "name"], right_on=KEY, how="left",
            maintain_order="left",
        )  # fmt: skip
        columns = [c for c in table.columns if c not in KEY]
        stage = begin_embeddings(out / model, model=model, inputs={"cohort": cohort.hash})
        folders.append(stage.folder)
        if stage.is_complete:
            continue
        write_embeddings(
            stage.folder / TABLE,
            session_id=rows["session_id"].to_list(),
            window=np.zeros(rows.height, np.int64),
            start_s=np.zeros(rows.height),
            vectors=rows.select(pl.col(columns).cast(pl.Float32)).to_numpy(),
            hashes=stage.inputs,
        )
        stage.finish([TABLE])
    return folders


def summarise(results: pl.DataFrame, hospital_name: str) -> None:
    """Print what the issue asks: means, nulls, and where the events beat the spectrum."""
    table = load_hospital(hospital_name)
    nulls = {name for name, cause in {**table.diseases, **table.medications}.items() if cause.null}
    scored = results.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    wide = scored.pivot("model", index=["task", "category"], values="value")
    models = [c for c in wide.columns if c not in ("task", "category")]
    wide = wide.with_columns(null=pl.col("task").is_in(list(nulls)))
    print(f"{wide.height} tasks reported, {wide['null'].sum()} of them null")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, float_precision=3, tbl_width_chars=160):
        print(wide.select(pl.lit("all").alias("category"), *(pl.col(m).mean() for m in models)))
        print(
            wide.filter(~pl.col("null"))
            .group_by("category")
            .agg(pl.len(), *(pl.col(m).mean() for m in models))
            .sort("category")
        )
        print("null tasks")
        print(wide.filter("null").select(pl.len(), *(pl.col(m).mean() for m in models)))
        ahead = wide.with_columns(gain=pl.col("oracle_events") - pl.col("spectrum_mean_sd"))
        n_ahead = ahead.filter(pl.col("gain") >= MARGIN).height
        print(
            f"true events beat mean + spread of the spectrum by {MARGIN} on {n_ahead} of "
            f"{wide.height} tasks ({n_ahead / wide.height:.0%})"
        )
        print(ahead.sort("gain", descending=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--patients", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--hospital", default="v1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--probe-share", type=float, default=0.5)
    parser.add_argument("--drop", action="store_true")
    args = parser.parse_args()
    config = SimulationConfig(
        n_patients=args.patients, seed=args.seed, hospital=args.hospital, n_sites=4
    )
    started = time.perf_counter()
    simulate(args.out / "hospital", config=config, n_workers=args.workers, recordings=False)
    print(f"simulated without recordings: {time.perf_counter() - started:.0f} s")
    engine = LocalEngine(n_workers=args.workers)
    folder = args.out / "cohort"
    source, on_demand = open_data_set(
        args.out / "hospital", folder, layout="bids", labels=(), engine=engine
    )
    # Nothing is trained here: those patients probe.
    splits = SplitConfig(
        train=0.01, probe=args.probe_share, tuning=0.14, held_out=0.85 - args.probe_share
    )
    ingest(source, folder, config=IngestConfig(splits=splits), engine=on_demand)
    print(f"made and ingested: {time.perf_counter() - started:.0f} s")
    cohort = Cohort(folder)
    embeddings = [
        *embed_oracles(args.out / "hospital", cohort, args.out / "embeddings"),
        *embed_handcrafted(cohort, args.out / "embeddings"),
    ]
    benchmark(
        folder, embeddings, args.out / "benchmark",
        config=BenchmarkConfig(n_resamples=100),
    )  # fmt: skip
    summarise(pl.read_parquet(args.out / "benchmark" / "results.parquet"), args.hospital)
    if args.drop:
        shutil.rmtree(folder / "spectrograms")


if __name__ == "__main__":
    main()
