"""Pictures, NIfTI and arrays, made by other libraries, and files inside archives."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image, ImageOps

from nc_medfl.data.dicom.quarantine import Rejected
from nc_medfl.data.inputs.content import content_of, read_member
from nc_medfl.data.inputs.listing import list_files
from nc_medfl.data.inputs.read import read_content, read_picture


def saved(array: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def outcome(content: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        read_picture(content)
    return caught.value.outcome


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    rows, cols = np.mgrid[0:90, 0:70]
    return ((rows * 2 + cols) % 256).astype(np.uint8)


@pytest.fixture(scope="module")
def deep() -> np.ndarray:
    rows, cols = np.mgrid[0:90, 0:70]
    return (rows * 700 + cols * 9).astype(np.uint16)


def test_lossless_pictures_show_their_values_at_full_range(grey, deep):
    for content in (saved(grey, "PNG"), tiff(grey), tiff(grey, compression="zlib"), tiff(grey, byteorder=">")):
        np.testing.assert_allclose(read_picture(content).pixels, grey / 255, atol=1e-6)
    for content in (saved(deep, "PNG"), tiff(deep), tiff(deep, compression="lzw"), tiff(deep, byteorder=">")):
        np.testing.assert_allclose(read_picture(content).pixels, deep / 65535, atol=1e-6)


def test_a_tiff_whose_white_is_zero_is_inverted_and_a_jpeg_is_near(grey):
    white = read_picture(tiff(grey, photometric="miniswhite"))
    np.testing.assert_allclose(white.pixels, 1 - grey / 255, atol=1e-6)
    assert white.facts.inverted
    smooth = np.tile(np.arange(70, dtype=np.uint8) * 3, (90, 1))
    assert np.abs(read_picture(saved(smooth, "JPEG", quality=95)).pixels - smooth / 255).max() < 0.02


def test_colour_palette_and_alpha_become_grey(grey):
    same = np.stack([grey] * 3, axis=2)
    alpha = np.dstack([same, np.full_like(grey, 9)])
    palette = Image.fromarray(grey).convert("P")
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    for content in (saved(same, "PNG"), saved(alpha, "PNG"), stream.getvalue(), tiff(same, photometric="rgb")):
        np.testing.assert_allclose(read_picture(content).pixels, grey / 255, atol=1.01 / 255)


def test_exif_orientation_turns_a_jpeg(grey):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    smooth = np.tile(np.arange(70, dtype=np.uint8) * 3, (90, 1))
    turned = read_picture(saved(smooth, "JPEG", quality=95, exif=exif))
    assert np.abs(turned.pixels - np.rot90(smooth, -1) / 255).max() < 0.02


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_its_orientation_says(grey, orientation):
    content = tiff(grey, photometric="minisblack", extratags=[(274, "H", 1, orientation, True)])
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_allclose(read_picture(content).pixels, expected / 255, atol=1e-6)


def test_planes_and_inks_of_a_tiff_become_grey(grey):
    colours = np.stack([grey, grey[::-1], 255 - grey], axis=2)
    inks, stream = Image.fromarray(colours).convert("CMYK"), io.BytesIO()
    inks.save(stream, "TIFF")
    planes = tiff(np.moveaxis(colours, 2, 0), photometric="rgb", planarconfig="separate")
    for content, seen in ((planes, Image.fromarray(colours)), (stream.getvalue(), inks.convert("RGB"))):
        assert np.abs(read_picture(content).pixels - np.asarray(seen.convert("L")) / 255).max() < 2 / 255
    assert outcome(tiff(colours, photometric="cielab")) == "colour"
    assert outcome(tiff(colours, photometric="ycbcr")) == "colour"


def test_twelve_bits_of_a_tiff_are_shown_at_their_own_full_range(deep):
    levels = deep >> 4
    # Two levels of 12 bits in three bytes (TIFF 6.0, BitsPerSample); the tags are of a file of 8 bits.
    first, second = levels.ravel()[::2].astype(int), levels.ravel()[1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()
    content = bytearray(tiff(np.zeros((90, 105), dtype=np.uint8), photometric="minisblack", rowsperstrip=90))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = {tag.code: tag.valueoffset for tag in file.pages[0].tags.values()}
        start = file.pages[0].dataoffsets[0]
    content[start : start + len(packed)] = packed
    content[tags[256] : tags[256] + 2] = (70).to_bytes(2, "little")
    content[tags[258] : tags[258] + 2] = (12).to_bytes(2, "little")
    read = read_picture(bytes(content))
    np.testing.assert_allclose(read.pixels, levels / 4095, atol=1e-6)
    assert read.facts.bits == 12


def test_what_cannot_be_used_has_its_outcome(grey):
    png, jpeg, plain = saved(grey, "PNG"), saved(grey, "JPEG"), tiff(grey)
    assert [outcome(content) for content in (png[:-30], jpeg[:-30], plain[:-3000])] == ["truncated"] * 3
    assert outcome(tiff(np.stack([grey, grey]))) == "multiframe"
    assert outcome(tiff(grey.astype(np.float32))) == "undecodable"
    assert outcome(saved(grey[:63], "PNG")) == "too_small"
    assert outcome(saved(np.full_like(grey, 7), "PNG")) == "constant_image"
    assert outcome(b"a letter") == "undecodable"
    assert outcome(b"") == "empty_file"
    huge = bytearray(png)
    huge[16:24] = (65535).to_bytes(4, "big") * 2
    assert outcome(bytes(huge)) == "too_large"


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": 6}, {"quality": 100, "optimize": True}])
def test_a_jpeg_cut_short_and_ended_is_truncated(grey, colour, options):
    # Its decoder fills up with grey, or with what the scans so far tell.
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    array = np.kron(grey, np.ones((3, 3), dtype=np.uint8)) // 2
    # Noise, so that hardly a byte of it stands between scans.
    array += np.random.default_rng(0).integers(0, 128, array.shape, dtype=np.uint8)
    whole = saved(np.stack([array] * 3, axis=2) if colour else array, "JPEG", **options)
    assert sorted(read_picture(whole).picture.shape) == sorted(array.shape)
    for share in (0.4, 0.7, 0.9):
        kept = whole[: int(len(whole) * share)]
        assert outcome(kept + b"\xff\xd9") == "truncated"
        assert outcome(kept + bytes(len(whole) - len(kept) - 2) + b"\xff\xd9") == "truncated"


def nifti(data: np.ndarray, affine: np.ndarray | None = None, **header: object) -> bytes:
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    return image.to_bytes()


def test_a_nifti_is_turned_as_its_affine_says(grey):
    # Coronal, of the film [rows from head to feet, columns from the patient's right to left]: i goes to the patient's
    # left, where x falls; j goes down, where z falls.
    film = grey
    affine = np.array([[-2.0, 0, 0, 0], [0, 0, 1, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]])
    straight = nifti(film.T[:, :, None], affine)
    np.testing.assert_allclose(read_picture(straight).pixels, film / 255, atol=1e-6)
    # The same film stored upside down and mirrored, with an affine that says so.
    other = affine.copy()
    other[:3, 0] *= -1
    other[:3, 1] *= -1
    np.testing.assert_allclose(read_picture(nifti(film.T[::-1, ::-1, None], other)).pixels, film / 255, atol=1e-6)
    # And with its axes exchanged.
    swapped = affine[:, [1, 0, 2, 3]]
    np.testing.assert_allclose(read_picture(nifti(film[:, :, None], swapped)).pixels, film / 255, atol=1e-6)
    assert read_picture(gzip.compress(straight)).pixel_sha256 == read_picture(straight).pixel_sha256


def test_spacing_scaling_and_display_range_of_a_nifti_count(grey):
    affine = np.diag([-0.5, -0.25, 1, 1])
    image = nib.Nifti1Image(grey.T[:, :, None].astype(np.int16), affine)
    image.header.set_slope_inter(2.0, -10.0)
    image.header["cal_min"], image.header["cal_max"] = 90, 390
    image.header.set_xyzt_units("mm")
    found = read_picture(image.to_bytes())
    assert found.aspect == pytest.approx(0.5)
    assert found.facts.spacing == pytest.approx(0.25)
    expected = np.clip((grey * 2.0 - 10 - 90) / 300, 0, 1)
    np.testing.assert_allclose(found.pixels, expected, atol=1e-4)


@pytest.mark.parametrize("more", [(1,), (1, 1)])
def test_a_nifti_with_further_axes_of_one_step_is_one_plane(grey, more):
    plane = grey.T[:, None, :]
    expected = read_picture(nifti(plane)).pixels
    np.testing.assert_array_equal(read_picture(nifti(plane.reshape(*plane.shape, *more))).pixels, expected)
    assert outcome(nifti(np.stack([plane, plane], axis=-1))) == "multiframe"


def test_a_volume_and_a_cut_nifti_are_refused(grey):
    coloured = np.zeros((70, 90, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert outcome(nifti(coloured)) == "colour"
    volume = nifti(np.repeat(grey.T[:, :, None], 3, axis=2))
    assert outcome(volume) == "multiframe"
    whole = nifti(grey.T[:, :, None])
    assert outcome(whole[:-100]) == "truncated"
    assert outcome(gzip.compress(whole)[:-200]) == "truncated"


def test_the_store_written_as_nifti_reads_back_as_it_was(tmp_path, grey):
    from nc_medfl.data.export.pictures import affine_of

    for view in ("PA", "AP", "LL", ""):
        image = nib.Nifti1Image(grey.T[:, :, None], affine_of(view, 0.7))
        np.testing.assert_allclose(read_picture(image.to_bytes()).pixels, grey / 255, atol=1e-6)


@pytest.fixture
def folder(tmp_path, make_dicom, picture) -> Path:
    for number in range(4):
        make_dicom(tmp_path / "plain" / f"im{number}.dcm", np.roll(picture, number, axis=0), PatientID=f"P{number}")
    return tmp_path / "plain"


def packed(folder: Path, target: Path) -> Path:
    files = sorted(folder.iterdir())
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"inner/{file.name}")
    else:
        with tarfile.open(target, "w:gz" if target.name.endswith("gz") else "w") as archive:
            for file in files:
                archive.add(file, f"inner/{file.name}")
    return target


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_members_of_an_archive_are_what_the_files_are(folder, tmp_path, name):
    archive = packed(folder, tmp_path / name)
    listed = list_files(archive)
    assert [file.name for file in listed] == [f"{name}/inner/im{number}.dcm" for number in range(4)]
    for file, original in zip(listed, sorted(folder.iterdir()), strict=True):
        assert content_of(file) == original.read_bytes()
        assert read_member(archive, file.member) == original.read_bytes()
        assert read_content("dicom", content_of(file)).facts.modality == "DX"


def test_a_hostile_member_name_leads_nowhere(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("../../evil.dcm", "/etc/evil.dcm", "ok\n.dcm", "ok\n.dcm"):
            archive.writestr(name, (folder / "im0.dcm").read_bytes())
    names = [file.name for file in list_files(tmp_path / "b.zip")]
    assert sorted(names) == ["b.zip/etc/evil.dcm", "b.zip/evil.dcm", "b.zip/ok_.dcm", "b.zip/ok_~2.dcm"]


def test_a_damaged_archive_costs_itself_and_no_other(tmp_path, folder):
    packed(folder, folder / "a.zip")
    content = (folder / "a.zip").read_bytes()
    (folder / "broken.zip").write_bytes(content[: len(content) // 2])
    listed = list_files(folder)
    assert len([file for file in listed if file.flaw is None]) == 8
    assert [file.name for file in listed if file.flaw is not None] == ["broken.zip"]
    assert "1 of 2 archives" in listed.remarks[0]


def test_a_dicomdir_names_its_files_and_folders_linked_in_a_circle_end(tmp_path, folder):
    medium = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    listed = list_files(medium / "DICOMDIR")
    assert len(listed) == 31
    assert all(file.path.is_file() for file in listed)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (tmp_path / "far").mkdir()
    (folder / "im0.dcm").rename(tmp_path / "far" / "im0.dcm")
    (folder / "far").symlink_to(tmp_path / "far", target_is_directory=True)
    assert [file.name for file in list_files(folder)] == ["far/im0.dcm", "im1.dcm", "im2.dcm", "im3.dcm"]


def test_medmnist_arrays_are_images_of_any_size(tmp_path):
    stacks = {f"{split}_images": np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8) for split in
              ("train", "val", "test")}  # fmt: skip
    np.savez(tmp_path / "chestmnist.npz", **stacks, train_labels=np.zeros((3, 14)))
    listed = list_files(tmp_path / "chestmnist.npz")
    assert sorted(file.member for file in listed) == [
        f"{s}/{n:06d}" for s in ("test", "train", "val") for n in range(3)
    ]
    one = next(file for file in listed if file.member == "val/000001")
    np.testing.assert_allclose(
        read_content("picture", content_of(one)).pixels, stacks["val_images"][1] / 255, atol=1e-6
    )
