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
    """The template of that package, filled. It extends `page.html`, the frame of all pages with
    their common style sheet, and gives its blocks `title`, `rules` (its own CSS) and `main`.

    Values are escaped, and one that the template names and is not given is an error.
    """
    own = files("openclef")
    sources = {
        "page.html": own.joinpath("page.html").read_text(encoding="utf-8"),
        template: files(package).joinpath(template).read_text(encoding="utf-8"),
    }
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(sources),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    style = own.joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=Markup(style), **values)
