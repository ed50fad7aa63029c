"""The jobs and site settings that a user starts from, wherever the package is installed."""

from __future__ import annotations

from pathlib import Path

from nc_medfl.errors import UserError, writing

#: The folders, as in the repository and as ``write_templates`` writes them.
FOLDERS = ("jobs", "site_configs")


def templates_folder() -> Path:
    """Where the templates lie: in the installed package, or in the repository around it.

    Raises:
        UserError: if neither has them.
    """
    package = Path(__file__).parent
    for folder in (package / "templates", package.parent):
        if all((folder / name).is_dir() for name in FOLDERS):
            return folder
    raise UserError("the package was installed without its templates. Install it again from its wheel.")


def write_templates(out: Path) -> list[Path]:
    """Write the templates into a folder that has none of them yet.

    Args:
        out: made if it isn't there.

    Returns:
        The files written, sorted.

    Raises:
        UserError: if one of the folders is there already, and nothing is written then; or if they can't be written.
    """
    home = templates_folder()
    taken = [out / name for name in FOLDERS if (out / name).exists()]
    if out.is_file() or taken:
        raise UserError(f"{taken[0] if taken else out}: is there already, and is left as it is. Give another folder.")
    files = sorted(
        path
        for name in FOLDERS
        for path in (home / name).rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml", ".yml", ".md") and "__pycache__" not in path.parts
    )
    made = []
    for path in files:
        place, content = out / path.relative_to(home), path.read_bytes()
        with writing(out, "Give another folder."):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        made.append(place)
    return made
