"""What is made of a finished store, all together."""

from __future__ import annotations

import pytest

from nc_medfl.data.outputs import Outputs, write_outputs
from nc_medfl.errors import UserError
from tests_support import tiny_store


def test_only_the_quality_page_unless_more_is_asked_for(tmp_path):
    store = tiny_store(tmp_path / "s", images=8, size=16)
    assert write_outputs(store.folder, Outputs()) == [store.folder / "quality.html"]
    assert not (store.folder / "export").exists()
    assert not (store.folder / "site_private" / "review.html").exists()


def test_everything_that_is_asked_for(tmp_path):
    store = tiny_store(tmp_path / "s", images=8, size=16)
    made = write_outputs(store.folder, Outputs(write=("png", "nifti", "png"), review=3))
    names = ["quality.html", "site_private/review.html", "export/png", "export/nifti"]
    assert made == [store.folder / name for name in names]
    assert all(path.exists() for path in made)


@pytest.mark.parametrize(
    ("wanted", "source", "message"),
    [
        (Outputs(write=("jpeg",)), "dicom", "--write jpeg: there are png, nifti, dicom"),
        (Outputs(review=-1), "dicom", "--review -1"),
        (Outputs(write=("dicom",)), "nih", "are no DICOM files"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(wanted, source, message):
    with pytest.raises(UserError, match=message):
        wanted.check(source)
    Outputs(write=("dicom",)).check("dicom")
