"""`openclef simulate`: what it writes, and each wrong option in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import openclef


def test_options_reach_the_data_set(tmp_path: Path) -> None:
    out = tmp_path / "hospital"
    done = openclef(
        "simulate", out, "--patients", 2, "--seed", 4, "--layout", "heedb", "--sites", 3,
        "--minutes", "0.2-0.3", "--sfreq", "native", "--effect-size", 0.5, "--no-recordings",
        "--workers", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 patients to make" in done.stderr
    assert "made when it is read" in done.stderr
    identity = json.loads((out / "config.json").read_text())["config"]
    assert identity["recordings"] == "on demand"
    assert identity["simulation"] == {
        "n_patients": 2, "seed": 4, "layout": "heedb", "n_sites": 3, "shortest_s": 12,
        "longest_s": 18, "sfreq": "native", "hospital": "v1", "effect_size": 0.5,
    }  # fmt: skip


def test_a_shard_says_which_others_are_awaited(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = []
    for shard in ("1/3", "3/3", "2/3"):
        assert not (out / "manifest.json").exists()
        done = openclef(
            "simulate", out, "--patients", 3, "--minutes", 0.2, "--shard", shard, "--workers", 1,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert told == [
        f"{out}: shard 1/3 is made; the tables wait for shards 2/3, 3/3\n",
        f"{out}: shard 3/3 is made; the tables wait for shards 2/3\n",
        f"simulated hospital: {out}\n",
    ]
    assert (out / "manifest.json").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--layout", "bidz", "did you mean 'bids'?"),
        ("--minutes", "60-20", "a range such as 20-60"),
        ("--minutes", "long", "a range such as 20-60"),
        ("--minutes", "nan", "a range such as 20-60"),
        ("--sfreq", "50", "from 100 to 1024, or native"),
        ("--sfreq", "fast", "from 100 to 1024, or native"),
        ("--shard", "3/2", "from 1/n to n/n"),
        ("--shard", "half", "from 1/n to n/n"),
        ("--hospital", "v0", "did you mean 'v1'?"),
        ("--sites", "9", "--sites 9: hospital v1 has 4, 1 to 4"),
        ("--sites", "0", "--sites 0: at least 1"),
        ("--patients", "0", "--patients 0: at least 1"),
        ("--seed", "-1", "--seed -1: at least 0"),
        ("--effect-size", "9", "--effect-size 9: from 0 to 3"),
        ("--effect-size", "nan", "--effect-size nan: from 0 to 3"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path: Path, option: str, value: str, message: str) -> None:
    done = openclef("simulate", tmp_path / "out", option, value)
    assert done.returncode == 2
    assert done.stderr.startswith("openclef: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_refused_before_anything_is_told(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "letter.txt"):
        done = openclef("simulate", out, "--patients", 1, "--minutes", 0.2, "--workers", 1)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("openclef: error: ")
        assert done.stderr.count("\n") == 1
