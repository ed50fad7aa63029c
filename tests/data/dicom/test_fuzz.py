"""Mutated real files give outcomes of the closed list and nothing else: no crash, no hang, no text of a header.

``make fuzz`` runs more of them: FUZZ_CASES, from seed FUZZ_SEED on. A failure names the file and the seed, and
``fuzz_mutations.mutate`` gives the file again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pydicom
import pytest
from fuzz_mutations import MARK
from fuzz_support import judge

from nc_medfl.data.dicom import OUTCOMES

CASES = int(os.environ.get("FUZZ_CASES", "300"))
FIRST = int(os.environ.get("FUZZ_SEED", "0"))
#: Resident bytes that judging one file may add. The largest real file has 7 MB and 3.6 million pixels.
MEMORY = 700 * 2**20
#: Real files of each kind of encoding in pydicom's own package.
OWN = (
    *("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "image_dfl.dcm"),
    *("MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "JPGExtended.dcm", "CT_small.dcm"),
    *("nested_priv_SQ.dcm", "UN_sequence.dcm", "DICOMDIR", "rtplan.dcm"),
)


def real_files(shared: Path) -> list[str]:
    """Real DICOM files: pydicom's own, and radiographs."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    own = [next(folder.rglob(name)) for name in OWN]
    return [str(path) for path in (*own, *sorted((shared / "dicom").glob("*.dcm")))]


@pytest.mark.timeout(3600)
def test_mutated_files_give_outcomes_of_the_closed_list(shared_data):
    files = real_files(shared_data)
    # Seeds of one file lie together, so that each is read once.
    jobs = sorted((files[number % len(files)], FIRST + number) for number in range(CASES))
    cases = list(judge(jobs))
    assert len(cases) == CASES
    wrong = [case.name for case in cases if case.outcome not in OUTCOMES]
    told = [case.name for case in cases if MARK.lower() in " ".join(case.decisions).lower()]
    slow = [f"{case.name}: {case.seconds:.1f} s" for case in cases if case.seconds > 10]
    large = [f"{case.name}: {case.peak}" for case in cases if case.peak[0] - case.peak[1] > MEMORY]
    unsure = [case.name for case in cases if case.mean is not None and not 0 <= case.mean <= 1]
    assert (wrong, told, slow, large, unsure) == ([], [], [], [], [])
    # The mutations reach deep: some files stay readable, and many outcomes are met.
    assert len({case.outcome for case in cases}) >= min(8, CASES)
