"""Templates of this package's pages: every text in them is escaped, and a name that isn't given is an error."""

from __future__ import annotations

import jinja2


def environment(package: str) -> jinja2.Environment:
    """The templates of a package, from its folder ``templates``.

    Args:
        package: such as ``nc_medfl.report``.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
