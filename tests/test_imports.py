"""Imports point one way (docs/decisions/0001-layout.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import openclef

PACKAGE = Path(openclef.__file__).parent
BASE = {"types", "errors", "artefact", "page", "workers"}
ALLOWED = {
    "types": set(),
    "errors": set(),
    "artefact": {"errors"},
    "page": set(),
    "workers": set(),
    "clinical": BASE,
    "signal": BASE,
    "training": BASE,
    "cohort": BASE | {"clinical", "signal"},
    "tokenizer": BASE | {"training", "cohort"},
    "encoder": BASE | {"training", "cohort", "tokenizer"},
    "alignment": BASE | {"clinical", "training", "cohort", "tokenizer", "encoder"},
    "model": BASE | {"signal", "training", "cohort", "tokenizer", "encoder"},
    "embed_model": BASE | {"training", "cohort", "tokenizer", "encoder", "model"},
    "window_model": BASE | {"signal", "training", "tokenizer", "encoder", "model"},
    "sklearn": BASE | {"model", "window_model"},
    "benchmark": BASE | {"clinical", "signal", "cohort", "training", "tokenizer", "model"},
    "simulate": BASE | {"clinical"},
}
FREE = {"recipes", "cli", "__init__", "__main__"}


def imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
            if node.module == "openclef":
                names = [f"openclef.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "openclef" and rest:
                yield rest.split(".")[0]


def test_every_part_has_its_place():
    parts = {p.stem if p.is_file() else p.name for p in PACKAGE.iterdir() if p.name[0] != "."}
    assert parts - {"py", "__pycache__"} == ALLOWED.keys() | FREE


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_one_way(part):
    files = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else []
    files += sorted((PACKAGE / part).rglob("*.py"))
    assert files
    for path in files:
        wrong = set(imported_parts(path)) - ALLOWED[part] - {part}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_no_pickle_in_the_package():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text, path
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path


def test_help_starts_without_heavy_imports():
    """Half a second is promised; what costs seconds must not be imported (time is not tested)."""
    code = (
        "import sys, openclef.cli; heavy = {'torch', 'mne', 'polars', 'scipy', 'numpy', 'zarr'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
