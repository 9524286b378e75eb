"""Recipes: a run is a Python function that returns its whole configuration."""

from __future__ import annotations

from openclef.errors import choose
from openclef.recipes import demo, tiny
from openclef.recipes.recipe import Recipe

RECIPES = {"demo": demo.recipe, "tiny": tiny.recipe}

__all__ = ["RECIPES", "Recipe", "get_recipe"]


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; raises OpenclefError naming the nearest one."""
    return RECIPES[choose(name, RECIPES, "recipe")]()
