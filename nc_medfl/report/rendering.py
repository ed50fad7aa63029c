"""Templates: every text in them is escaped, and a name that isn't given is an error."""

from __future__ import annotations

import jinja2


def environment() -> jinja2.Environment:
    """The templates of the report."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("nc_medfl.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
