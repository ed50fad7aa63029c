"""What pyproject.toml can't say: the wheel holds the jobs and site settings of the repository, as templates."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TEMPLATES = ("jobs", "site_configs")


class BuildWithTemplates(build_py):
    """Copies the templates beside the package's modules, where ``nc_medfl.templates`` looks for them."""

    def run(self) -> None:
        """Build the modules, then copy."""
        super().run()
        if self.editable_mode:  # the repository itself is there
            return
        for name in TEMPLATES:
            place = Path(self.build_lib) / "nc_medfl" / "templates" / name
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(name, place, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


setup(cmdclass={"build_py": BuildWithTemplates})
