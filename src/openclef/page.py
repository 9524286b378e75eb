"""Self-contained HTML pages from Jinja templates: one look, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

Filters = Mapping[str, Callable[..., str]]


def render_page(
    package: str, template: str, /, *, filters: Filters | None = None, **values: Any
) -> str:
    """The template of that package, filled; `{{ style }}` in it is the pages' common style sheet.

    Values are escaped, and one that the template names and is not given is an error.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(filters or {})
    source = files(package).joinpath(template).read_text(encoding="utf-8")
    style = files("openclef").joinpath("page.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(style=Markup(style), **values)
