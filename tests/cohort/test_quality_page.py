from __future__ import annotations

import base64
import re
from datetime import datetime
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from openclef.cohort import quality_figures
from openclef.cohort.quality_page import N_WORST, QUALITY_COLUMNS, write_quality_page
from openclef.errors import OpenclefError
from openclef.signal.quality import STATES, assess_window, summarise
from openclef.types import CHANNELS, Recording

ERRORS = pl.DataFrame(
    {
        "path": ["/data/Doe_Jane/a.edf", "/data/Roe_Richard/b.edf", "/data/c.edf"],
        "stage": ["open", "open", "ingest"],
        "error": ["RecordingError", "RecordingError", "OSError"],
        "message": ["/data/Doe_Jane/a.edf: truncated", "born 1950-01-01", "no space"],
    }
)


def session(number: int, **changes) -> dict:
    """A clean session of 20 minutes as `sessions.parquet` has it."""
    row = {"session_id": f"S{number:06d}", "site": "S0001", "setting": "routine"}
    row |= {
        "subject_id": 987654,
        "path": "sub-Doe/Doe_Jane.edf",
        "start_time": datetime(1999, 5, 17),
    }
    row |= {"duration_s": 1200.0, **{f"q_{state}": [] for state in STATES}, "q_kept": CHANNELS}
    row |= {"q_amplitude_uv": [10.0] * 19, "q_line_hz": None, "q_line_ratio": 1.1, "q_n_gaps": 0}
    row |= {
        "q_gap_s": 0.0,
        "q_assessed_s": 1200.0,
        "q_visible_s": 1200.0,
        "q_usable_s": 1200.0,
        "q_artefact": 0.0,
    }
    row |= {"q_artefact_per_minute": [0.0] * 20, "q_sfreq_hz": 256.0, "q_reference": "LE"}
    return row | {"q_unit": "as stated", "q_notes": []} | changes


def table(rows: list[dict]) -> pl.DataFrame:
    names = {"session_id": pl.String, "site": pl.String, "setting": pl.String}
    names |= {"subject_id": pl.Int64, "path": pl.String, "start_time": pl.Datetime}
    return pl.DataFrame(rows, schema=names | {"duration_s": pl.Float64} | QUALITY_COLUMNS)


class Page(HTMLParser):
    """Rows of cells of every table, by its caption, and the attributes of every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._into: str | None = None
        self._caption = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._into = tag
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.tables.setdefault(self._caption, []).append([])
        elif tag in {"td", "th"}:
            self.tables[self._caption][-1].append("")

    def handle_data(self, data):
        if self._into == "caption":
            self._caption += data.strip()
        elif self._into in {"td", "th"}:
            self.tables[self._caption][-1][-1] += data.strip()

    def handle_endtag(self, tag):
        self._into = None

    def rows(self, caption: str) -> dict[str, list[str]]:
        """Cells by the first of each row."""
        (found,) = (rows for name, rows in self.tables.items() if name.startswith(caption))
        return {first: cells for first, *cells in found}


@pytest.fixture
def draw(tmp_path):
    def drawn(rows: list[dict], errors: pl.DataFrame = ERRORS, **options) -> str:
        write_quality_page(table(rows), tmp_path / "quality.html", errors=errors, **options)
        return (tmp_path / "quality.html").read_text(encoding="utf-8")

    return drawn


def test_columns_are_those_of_a_quality():
    signal_uv = np.random.default_rng(0).standard_normal((19, 2000)).astype(np.float32)
    recording = Recording(signal_uv, 200.0, CHANNELS, np.zeros(19, bool))
    found = summarise([assess_window(recording)], montage={}, unit_verdict="", notes={})
    assert found.columns().keys() == QUALITY_COLUMNS.keys()
    pl.DataFrame([found.columns()], schema=QUALITY_COLUMNS)


def test_page_holds_no_path_patient_date_or_message(draw):
    text = draw([session(1), session(2)])
    hidden = ("Doe", "Roe", ".edf", "/data", "987654", "1999", "1950", "truncated", "no space")
    for secret in hidden:
        assert secret not in text
    for image in re.findall(r"base64,([A-Za-z0-9+/=]+)", text):
        words = " ".join(re.findall(r"<!-- (.*?) -->", base64.b64decode(image).decode()))
        assert not [secret for secret in hidden if secret in words]


def test_page_is_self_contained_and_every_picture_has_a_text(draw):
    page = Page(draw([session(1), session(2, site="S0002")]))
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 5
    for attrs in pictures:
        assert len(attrs["alt"]) > 40
        kind, _, data = attrs["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not [
        attrs for tag, attrs in page.tags if tag != "img" and {"src", "href"} & attrs.keys()
    ]


def test_states_are_counted_by_electrode(draw):
    kept = [name for name in CHANNELS if name not in {"Cz", "F4"}]
    rows = [
        session(1),
        session(2),
        session(3),
        session(4, q_kept=kept, q_flat=["Cz"], q_noisy=["F4"]),
    ]
    cells = Page(draw(rows)).rows("Sessions in which an electrode")
    assert cells["electrode"] == ["kept", "noisy", "bridged", "clipped", "flat", "missing"]
    assert cells["Cz"] == ["75.0%", "0.0%", "0.0%", "0.0%", "25.0%", "0.0%"]
    assert cells["F4"] == ["75.0%", "25.0%", "0.0%", "0.0%", "0.0%", "0.0%"]
    assert cells["O1"][0] == "100.0%"


def test_files_and_problems_are_counted_by_kind(draw):
    rows = [session(i) for i in range(3)]
    rows.append(session(3, q_unit="rescaled", q_n_gaps=7, q_notes=["truncated", "bad date"]))
    page = Page(draw(rows))
    assert page.rows("Unit")["rescaled"][:2] == ["1", "25%"]
    assert page.rows("Gaps")["none"][:2] == ["3", "75%"]
    assert page.rows("Gaps")["6 to 20"][:2] == ["1", "25%"]
    assert page.rows("Notes")["bad date"][:2] == ["1", "25%"]
    assert page.rows("Sampling rate")["256 Hz"][:2] == ["4", "100%"]
    assert page.rows("Problems")["open: RecordingError"][:2] == ["2", "67%"]
    assert "none" in Page(draw(rows, errors=ERRORS.head(0))).rows("Problems")


def test_small_sites_are_pooled_and_all_are_counted(draw):
    rows = [session(i, site=f"site {i:02d}") for i in range(25)]
    rows += [session(100 + i, site=None, q_line_hz=50.0, q_usable_s=300.0) for i in range(5)]
    cells = Page(draw(rows)).rows("By site")
    names = list(cells)
    assert names[1] == "not stated"
    assert names[-1] == "6 others"
    assert cells["6 others"][0] == "6"
    assert cells["not stated"] == ["5", "1.7", "25%", "19.0", "0.0%", "100%", "0%"]


def test_worst_sessions_are_those_with_least_usable_signal(draw):
    rows = [session(i) for i in range(30)]
    rows[17] = session(17, q_usable_s=12.0)
    rows[8] = session(8, q_kept=CHANNELS[:3], q_missing=CHANNELS[3:])
    cells = Page(draw(rows)).rows(f"The {N_WORST} sessions")
    assert list(cells)[:4] == ["session", "S000017", "S000008", "S000000"]
    assert len(cells) == N_WORST + 1
    assert cells["S000008"][:4] == ["16%", "20.0", "100%", "3"]


def test_minute_quantiles_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(quality_figures, "_AT_ONCE", 64)
    rng = np.random.default_rng(0)
    values = rng.beta(0.5, 4, (500, 6)).round(3)
    rows = [session(i, q_artefact_per_minute=row.tolist()) for i, row in enumerate(values)]
    for row in rows[3:]:
        del row["q_artefact_per_minute"][5:]  # too few last six minutes
    found = quality_figures._minute_quantiles(table(rows))
    oracle = np.quantile(values[:, :5], [0.1, 0.25, 0.5, 0.75, 0.9], axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found, oracle, atol=1e-9)


def test_minutes_in_gaps_are_left_out():
    rows = [session(i, q_artefact_per_minute=[None, 0.5]) for i in range(3)]
    first, second = quality_figures._minute_quantiles(table(rows)).T
    assert np.isnan(first).all()
    assert (second == 0.5).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"duration_s": 4.0, "q_usable_s": 0.0, "q_artefact_per_minute": [1.0]},
        {"q_artefact_per_minute": [None, None], "q_artefact": None, "q_line_ratio": None},
        {"q_kept": [], "q_flat": CHANNELS, "q_usable_s": 0.0},
    ],
)
def test_one_session_will_do(draw, changes):
    assert "S000001" in draw([session(1, **changes)])


def test_page_repeats_byte_for_byte_and_is_as_large_for_many_sessions(draw):
    rows = [session(i, duration_s=60.0 * (1 + i % 300)) for i in range(3000)]
    assert draw(rows) == draw(rows)
    assert len(draw(rows)) < 2 * len(draw(rows[:1]))


def test_names_are_escaped(draw):
    text = draw([session(1, site="<b>A & B</b>", q_unit="<i>")], title="Quality <of> all")
    assert "<b>" not in text
    assert "<i>" not in text
    assert "<h1>Quality &lt;of&gt; all</h1>" in text


def test_no_session_is_refused(draw):
    with pytest.raises(OpenclefError, match="no session"):
        draw([])


@pytest.mark.parametrize(
    ("fraction", "digits", "shown"),
    [(0.0, 0, "0%"), (1.0, 0, "100%"), (0.001, 0, "<1%"), (0.999, 0, ">99%"), (0.0004, 1, "<0.1%"),
     (0.125, 1, "12.5%"), (None, 0, "")],
)  # fmt: skip
def test_percent_never_rounds_to_nothing_or_all(fraction, digits, shown):
    assert quality_figures.percent(fraction, digits) == shown
