"""A data set of each layout, written once."""

import shutil

import pytest
from trees import make_tree

from openclef.cohort.layouts import LAYOUTS, read_source


@pytest.fixture(scope="session")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    return {layout: make_tree(layout, root / layout) for layout in LAYOUTS}


@pytest.fixture(scope="session")
def sources(trees):
    return {layout: read_source(root) for layout, root in trees.items()}


@pytest.fixture
def copy_tree(trees, tmp_path):
    """A copy of a tree that a test may change."""
    return lambda layout: shutil.copytree(trees[layout], tmp_path / layout)
