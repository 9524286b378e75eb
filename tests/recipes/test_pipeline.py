"""What a run makes of its recipe."""

import json
import shutil

from openclef.cohort.engine import LocalEngine
from openclef.cohort.ingest import IngestConfig
from openclef.cohort.layouts import read_source
from openclef.recipes import get_recipe, pipeline
from openclef.recipes.recipe import changed


def test_windows_are_read_out_at_the_recipes_layer(finished_run, hospital, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(
        finished_run, out, ignore=lambda folder, names: {"model", "embeddings", "benchmark"}
        if folder == str(finished_run) else set(),
    )  # fmt: skip
    recipe = changed(get_recipe("tiny"), pooling="mean", layer=0)
    pipeline.run(
        read_source(hospital), out, recipe=recipe,
        ingest_config=IngestConfig(splits=recipe.splits), engine=LocalEngine(n_workers=1),
        say=lambda _: None,
    )  # fmt: skip
    for folder in ("model", "embeddings/clef_aligned", "embeddings/clef_untrained"):
        config = json.loads((out / folder / "config.json").read_text())["config"]
        assert (config["pooling"], config["layer"]) == ("mean", 0), folder
