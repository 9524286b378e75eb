"""What a perfect reader could tell of a session: some 100 features of its true events alone."""

from __future__ import annotations

import polars as pl

STAGES = ("wake", "n1", "n2", "n3", "rem", "coma")
STATES = (
    *STAGES, "eyes_open", "hyperventilation", "hyperventilation_slowing", "photic", "lapse",
    "alpha_burst",
)  # fmt: skip
_SIZED = ("eyes_open", "alpha_burst", "hyperventilation_slowing", "photic")
KEY = ["participant_id", "session_id"]

_ASLEEP, _LIGHT, _AWAKE = ["n2", "n3"], ["n1", "n2"], ["wake"]
# What is worth knowing of a kind; anything that is not listed is a finding or an artefact.
_FEATURES = {
    "spindle": ("asleep", "length", "pitch", "size", "irregular"),
    "k_complex": ("asleep", "size"),
    "vertex_wave": ("light", "size"),
    "arousal": ("asleep", "irregular", "gap", "length"),
    "heartbeat": ("rate", "irregular"),
    "blink": ("awake", "irregular"),
    "muscle": ("awake", "length"),
    "roving": ("light",),
    "eye_movement": ("awake",),
    "jerk": ("rate",),
    "tremor": ("rate", "busy"),
    "focal_slowing": ("rate", "busy", "length"),
    "generalized_slowing": ("rate", "busy", "length"),
}
# Movement of the bed says nothing of the brain; a seizure is counted once, at its start.
_LEFT_OUT = (
    "pop", "sweat", "movement", "chewing", "percussion", "ventilator", "sawtooth", "low_voltage",
    "seizure_spread", "postictal",
)  # fmt: skip
_FINDING = ("rate",)


def event_features(events: pl.DataFrame, sessions: pl.DataFrame) -> pl.DataFrame:
    """One row a session of `sessions` (KEY, duration_s), columns of features, null where unknown.

    events: KEY, kind, onset_s, length_s, amplitude_uv, frequency_hz, side.
    """
    stages = events.filter(pl.col("kind").is_in(STAGES))
    minutes = stages.group_by(KEY).agg(
        total=pl.col("length_s").sum() / 60,
        **{
            name: pl.col("length_s").filter(pl.col("kind").is_in(kinds)).sum() / 60
            for name, kinds in (("asleep", _ASLEEP), ("light", _LIGHT), ("awake", _AWAKE))
        },
    )
    wide = sessions.select(KEY).join(minutes, on=KEY, how="left", maintain_order="left")
    happening = events.filter(~pl.col("kind").is_in((*STATES, *_LEFT_OUT))).sort("onset_s")
    happening = happening.join_asof(
        stages.select(*KEY, "onset_s", stage="kind").sort("onset_s"),
        on="onset_s", by=KEY, check_sortedness=False,
    )  # fmt: skip
    summaries = happening.group_by([*KEY, "kind"]).agg(
        rate=pl.len().cast(pl.Float64),
        asleep=pl.col("stage").is_in(_ASLEEP).sum().cast(pl.Float64),
        light=pl.col("stage").is_in(_LIGHT).sum().cast(pl.Float64),
        awake=pl.col("stage").is_in(_AWAKE).sum().cast(pl.Float64),
        busy=pl.col("length_s").sum(),
        length=pl.col("length_s").mean().log1p(),
        size=pl.col("amplitude_uv").abs().mean().log1p(),
        pitch=pl.col("frequency_hz").fill_nan(None).mean(),
        irregular=(pl.col("onset_s").diff().std() / pl.col("onset_s").diff().mean()).clip(0, 5),
        gap=pl.col("onset_s").diff().median().log1p(),
    )
    n_sessions = sessions.height
    for (kind,), rows in summaries.sort("kind").group_by("kind", maintain_order=True):
        if rows.height >= 0.01 * n_sessions:
            wide = wide.join(_summarise(str(kind), rows, minutes), on=KEY, how="left",
                             maintain_order="left")  # fmt: skip
    for kind in STATES:
        rows = events.filter(pl.col("kind") == kind)
        if rows.height:
            wide = wide.join(_state(kind, rows, minutes), on=KEY, how="left",
                             maintain_order="left")  # fmt: skip
    # How large alpha is belongs to the spectrum; how much of it open eyes take away does not.
    reactivity = pl.col("eyes_open size") / pl.col("alpha_burst size")
    wide = wide.with_columns(reactivity.fill_nan(None).alias("eyes_open reactivity"))
    wide = wide.drop("eyes_open size", "alpha_burst size")
    counted = [c for c in wide.columns if c.endswith((" rate", " busy", " share", " bouts"))]
    return wide.drop("total").with_columns(pl.col(counted).fill_null(0.0))


def _summarise(kind: str, rows: pl.DataFrame, minutes: pl.DataFrame) -> pl.DataFrame:
    names = _FEATURES.get(kind, _FINDING)
    time = {"rate": "total", "busy": "total", "asleep": "asleep", "light": "light",
            "awake": "awake"}  # fmt: skip
    table = rows.join(minutes, on=KEY, suffix=" minutes")
    columns = []
    for name in names:
        value = pl.col(name)
        if name in time:
            span = pl.col(f"{time[name]} minutes" if time[name] in rows.columns else time[name])
            # Counts a minute; unknown where the state did not last.
            value = pl.when(span > 0.5).then((value / span).log1p())
        columns.append(value.alias(f"{kind} {name}"))
    return table.select(*KEY, *columns)


def _state(kind: str, rows: pl.DataFrame, minutes: pl.DataFrame) -> pl.DataFrame:
    table = rows.join(minutes, on=KEY).group_by(KEY).agg(
        pl.col("length_s").sum().alias("sum"), pl.len().alias("n"),
        pl.col("onset_s").min().alias("first"), pl.col("length_s").mean().alias("mean"),
        pl.col("amplitude_uv").mean().alias("size"), pl.col("total").first(),
    )  # fmt: skip
    return table.select(
        *KEY,
        (pl.col("sum") / pl.col("total") / 60).alias(f"{kind} share"),
        (pl.col("n") / pl.col("total")).log1p().alias(f"{kind} bouts"),
        pl.col("first").log1p().alias(f"{kind} latency"),
        pl.col("mean").log1p().alias(f"{kind} bout"),
        *([pl.col("size").alias(f"{kind} size")] if kind in _SIZED else []),
    )
