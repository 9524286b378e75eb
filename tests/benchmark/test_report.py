from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from openclef.benchmark.matching import BALANCE_SCHEMA
from openclef.benchmark.report import Figure, Section, closing_table, write_report

VALUES = {
    ("spikes", "finding"): (0.81, 0.92),
    ("sleep", "finding"): (0.7, 0.6),
    ("stroke", "disease"): (0.65, 0.65),
    ("rare", "disease"): (None, None),
}


@pytest.fixture
def results() -> pl.DataFrame:
    rows = [
        {
            "task": task,
            "category": category,
            "model": model,
            "protocol": "linear/cv",
            "value": value,
            "ci_low": None if value is None else value - 0.1,
            "ci_high": None if value is None else value + 0.1,
            "n_pos": 21,
            "n_neg": 40,
        }
        for (task, category), values in VALUES.items()
        for model, value in zip(("clef", "band_power"), values, strict=True)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


@pytest.fixture
def comparisons() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "task": ["spikes", "sleep", "stroke"],
            "model_a": "clef",
            "model_b": "band_power",
            "delta": [-0.11, 0.1, 0.0],
            "ci_low": [-0.2, -0.1, -0.1],
            "ci_high": [-0.02, 0.3, 0.1],
            "p": [0.01, 0.3, 1.0],
            "q": [0.03, 0.45, 1.0],
        }
    )


@pytest.fixture
def balance() -> pl.DataFrame:
    shared = {"task": "stroke", "split": "non_train", "n_cases": 30, "n_cases_dropped": 4}
    shared |= {"n_controls_before": 60, "n_controls_after": 26}
    rows = [
        shared | {"covariate": "age", "smd_before": 0.7, "smd_after": 0.05},
        shared | {"covariate": "sex=F", "smd_before": -0.1, "smd_after": -0.09},
    ]
    return pl.DataFrame(rows, schema=BALANCE_SCHEMA)


@pytest.fixture
def page(results, comparisons, balance, tmp_path) -> str:
    path = tmp_path / "report.html"
    write_report(
        path,
        results,
        comparisons,
        balance,
        title="A <title>",
        n_patients={"train": 40, "probe": 20, "tuning": 20, "held_out": 30},
        sections=[
            Section(
                "Loss",
                "It fell.\n\nThen it stayed.",
                [
                    Figure(b"\x89PNG\r\n", "A curve", "A falling curve"),
                    Figure(b"<svg/>", "A second", "A flat curve"),
                ],
            )
        ],
    )
    return path.read_text(encoding="utf-8")


def _terminal(results: pl.DataFrame) -> list[str]:
    console = Console(width=120, file=None, record=True, quiet=False)
    with console.capture() as capture:
        console.print(closing_table(results))
    return capture.get().splitlines()


def _line(lines: list[str], start: str) -> str:
    return next(line for line in lines if start in line)


def test_the_best_of_a_row_is_marked_whoever_it_is(results):
    lines = _terminal(results)
    spikes, sleep, stroke = (_line(lines, name) for name in ("spikes", "sleep", "stroke"))
    assert "0.920*" in spikes
    assert "0.810*" not in spikes
    assert "0.700*" in sleep
    assert stroke.count("0.650*") == 2


def test_models_stay_in_the_order_given_with_the_interval_of_the_first(results):
    lines = _terminal(results)
    header = _line(lines, "task")
    assert header.index("clef") < header.index("power")
    assert "(0.71-0.91)" in _line(lines, "spikes")
    assert "(0.82" not in _line(lines, "spikes")


def test_rare_tasks_say_too_few_and_are_left_out_of_the_means(results):
    lines = _terminal(results)
    assert _line(lines, "rare").count("too few") == 1
    assert "(1 tasks)" in _line(lines, "mean disease")
    finding = _line(lines, "mean finding")
    assert "0.755" in finding
    assert "0.760*" in finding
    assert "(3 tasks)" in _line(lines, "mean all")


def test_the_page_stands_alone(page):
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert "A &lt;title&gt;" in page


def test_the_page_says_where_a_baseline_wins(page):
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "band_power has the higher AUROC on: spikes." in text
    assert "lower on 1 (1 with q &lt; 0.05: spikes)" in text
    assert "cross-validated by patient" in text
    assert "40 train, 20 probe, 20 tuning, 30 held_out" in text
    assert "Too few positive or negative patients to report: rare (21 / 40)" in text


class _Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.headers: list[dict[str, str | None]] = []
        self.titles: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "th":
            self.headers.append(dict(attrs))
        self._in_title = tag == "h2"

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.titles.append(data)
            self._in_title = False


def test_the_page_is_accessible_and_sections_follow_the_results(page):
    structure = _Structure()
    structure.feed(page)
    assert len(structure.images) == 3
    assert all(image["alt"] for image in structure.images)
    assert [image["src"][:20] for image in structure.images] == [
        "data:image/svg+xml;b",
        "data:image/png;base6",
        "data:image/svg+xml;b",
    ]
    assert all("scope" in header for header in structure.headers)
    assert structure.titles == ["Summary", "Results", "Loss", "Comparisons", "Matched controls"]


def test_the_same_results_give_the_same_page(page, results, comparisons, balance, tmp_path):
    paths: list[Path] = []
    for name in ("one", "two"):
        paths.append(tmp_path / f"{name}.html")
        write_report(paths[-1], results, comparisons, balance, title="t", n_patients={"train": 1})
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_single_model_and_no_reported_task_still_make_a_page(results, comparisons, tmp_path):
    alone = results.filter((pl.col("model") == "clef") & (pl.col("task") == "rare"))
    write_report(
        tmp_path / "r.html",
        alone,
        comparisons.clear(),
        pl.DataFrame(schema=BALANCE_SCHEMA),
        title="t",
        n_patients={"train": 1},
    )
    assert "too few" in (tmp_path / "r.html").read_text()
    assert "rare" in "\n".join(_terminal(alone))
