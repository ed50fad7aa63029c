"""Reading DICOM: encodings, outcomes, header facts."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image

from nc_medfl.data.dicom import OUTCOMES, REMEDIES, Policy, Rejected, read_radiograph
from nc_medfl.data.dicom.explain import explain_file
from nc_medfl.data.dicom.reader import read_bytes

LOSSLESS = {
    "implicit little endian": "1.2.840.10008.1.2",
    "explicit little endian": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99",
    "explicit big endian": "1.2.840.10008.1.2.2",
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG lossless": "1.2.840.10008.1.2.4.57",
    "JPEG lossless SV1": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
}


def outcome_of(path, **policy) -> str:
    with pytest.raises(Rejected) as caught:
        read_radiograph(path, Policy(**policy))
    return caught.value.outcome


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_every_lossless_encoding_gives_the_same_bytes(tmp_path, make_dicom, picture, syntax, signed):
    stored = (picture.astype(np.int32) - 2000).astype(np.int16) if signed else picture
    window = {"WindowCenter": "100" if signed else "2000", "WindowWidth": "3000"}
    plain = read_radiograph(make_dicom(tmp_path / "plain", stored, **window))
    other = read_radiograph(make_dicom(tmp_path / "other", stored, syntax, **window))
    assert other.pixels.tobytes() == plain.pixels.tobytes()
    assert other.pixel_sha256 == plain.pixel_sha256
    assert other.facts.transfer_syntax == syntax
    assert other.facts.lossy is False


def test_eight_bits_of_an_odd_size_read_in_both_byte_orders(tmp_path, make_dicom):
    stored = np.random.default_rng(0).integers(0, 256, (65, 67), dtype=np.uint8)
    path = make_dicom(tmp_path / "little", stored, WindowCenter="127.5", WindowWidth="256", PixelData=b"")
    dataset = pydicom.dcmread(path)
    dataset.PixelData = stored.tobytes() + b"\0"
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    # LINEAR, c 127.5, w 256: ((x - 127) / 255) + 0.5 = (x + 0.5) / 255, clipped.
    expected = np.clip((stored.astype(np.float64) + 0.5) / 255, 0, 1)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, atol=1e-6)


def test_bits_above_high_bit_are_no_part_of_the_value(tmp_path, make_dicom, picture):
    twelve = {"BitsStored": 12, "HighBit": 11}
    clean = read_radiograph(make_dicom(tmp_path / "clean", picture, **twelve))
    overlay = picture | (np.arange(picture.size, dtype=np.uint16).reshape(picture.shape) << 12)
    assert read_radiograph(make_dicom(tmp_path / "overlay", overlay, **twelve)).pixel_sha256 == clean.pixel_sha256


def test_values_may_sit_in_the_upper_bits(tmp_path, make_dicom, picture):
    low = read_radiograph(make_dicom(tmp_path / "low", picture, BitsStored=12, HighBit=11))
    high = read_radiograph(make_dicom(tmp_path / "high", picture << 4, BitsStored=12, HighBit=15))
    assert high.pixel_sha256 == low.pixel_sha256


@pytest.mark.parametrize("name", ["RLE", "JPEG lossless SV1", "JPEG-LS", "JPEG 2000", "HTJ2K"])
def test_values_in_the_upper_bits_are_read_alike_when_their_cells_are_compressed(tmp_path, make_dicom, picture, name):
    low = read_radiograph(make_dicom(tmp_path / "low", picture, BitsStored=12, HighBit=11))
    high = read_radiograph(make_dicom(tmp_path / "high", picture << 4, LOSSLESS[name], BitsStored=12, HighBit=15))
    assert high.pixel_sha256 == low.pixel_sha256


@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_a_file_cut_anywhere_in_its_pixels_is_truncated(tmp_path, make_dicom, picture, syntax):
    content = make_dicom(tmp_path / "x", picture, syntax).read_bytes()
    for keep in (0.6, 0.9, 0.99):
        (tmp_path / "cut").write_bytes(content[: int(len(content) * keep)])
        assert outcome_of(tmp_path / "cut") == "truncated", keep


@pytest.mark.parametrize("name", ["JPEG lossless SV1", "JPEG-LS", "JPEG 2000", "HTJ2K"])
def test_a_frame_without_its_end_marker_is_truncated_whatever_the_codec_says(tmp_path, make_dicom, picture, name):
    path = make_dicom(tmp_path / "x", picture, LOSSLESS[name])
    dataset = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) * 3 // 4]])
    dataset.save_as(path)
    assert outcome_of(path) == "truncated"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_jpeg_cut_short_and_ended_is_truncated_though_its_decoder_is_silent(tmp_path, make_dicom, picture, bits):
    # libjpeg fills the rest with mid-grey and returns as if all were well.
    wide = np.tile(picture, (4, 4))
    if bits == 16:
        frame = imagecodecs.jpeg8_encode(wide, lossless=True, predictor=1, bitspersample=16)
    else:
        lossy = (wide >> 4).astype(np.uint8) if bits == 8 else wide
        frame = imagecodecs.jpeg8_encode(lossy, level=95, bitspersample=bits)
    syntax = {8: "1.2.840.10008.1.2.4.50", 12: "1.2.840.10008.1.2.4.51", 16: "1.2.840.10008.1.2.4.70"}[bits]

    def judged(content: bytes) -> str:
        allocated = 8 if bits == 8 else 16
        path = make_dicom(tmp_path / "x", wide, BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        dataset.PixelData = pydicom.encaps.encapsulate([content])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
        return explain_file(path).outcome

    assert judged(frame) == "ok"
    for share in (0.2, 0.5, 0.9, 0.98):
        kept = frame[: int(len(frame) * share)]
        assert judged(kept + b"\xff\xd9") == "truncated"
        # Filled up to its length, as on a disk that set the room aside beforehand.
        assert judged(kept + bytes(len(frame) - len(kept) - 2) + b"\xff\xd9") == "truncated"


@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.95])
def test_a_jpeg_of_several_scans_that_lacks_some_is_truncated(tmp_path, make_dicom, picture, share):
    # Every pixel is there from the first scan on, and no pixel tells that later ones are cut.
    grey = np.tile(picture >> 4, (4, 4)).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", progressive=True, quality=95)
    frame = stream.getvalue()
    path = make_dicom(tmp_path / "x", grey, BitsAllocated=8, BitsStored=8, HighBit=7)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.55")
    dataset["PixelData"].VR = "OB"
    for content, expected in ((frame, "ok"), (frame[: int(len(frame) * share)] + b"\xff\xd9", "truncated")):
        dataset.PixelData = pydicom.encaps.encapsulate([content])
        dataset.save_as(path, implicit_vr=False, little_endian=True)
        assert explain_file(path).outcome == expected


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000", "HTJ2K"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_frame_cut_short_and_ended_is_truncated_not_merely_undecodable(tmp_path, make_dicom, picture, name, share):
    path = make_dicom(tmp_path / "x", picture, LOSSLESS[name])
    dataset = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = pydicom.encaps.encapsulate([frame[: int(len(frame) * share)] + b"\xff\xd9"])
    dataset.save_as(path)
    assert outcome_of(path) == "truncated"


def test_a_whole_jpeg_that_ends_in_mid_grey_is_no_truncated_one(tmp_path, make_dicom, picture):
    grey = picture.copy()
    grey[-9:, -9:] = 2**15
    path = make_dicom(tmp_path / "x", grey, LOSSLESS["JPEG lossless SV1"])
    assert read_radiograph(path).pixel_sha256 == read_radiograph(make_dicom(tmp_path / "y", grey)).pixel_sha256


def test_a_whole_jpeg_that_ends_in_zeros_is_no_truncated_one(tmp_path, make_dicom, picture):
    even = np.tile(picture, (4, 4))
    even[30:] = 1000
    # The last byte is filled up with ones, so not every width will do.
    for width in range(even.shape[1], even.shape[1] - 16, -1):
        even = np.ascontiguousarray(even[:, :width])
        frame = imagecodecs.jpeg8_encode(even, lossless=True, predictor=2, bitspersample=16)
        if not frame[-66:-2].strip(b"\0"):
            break
    assert not frame[-66:-2].strip(b"\0")
    path = make_dicom(tmp_path / "x", even, LOSSLESS["JPEG lossless SV1"])
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    dataset.save_as(path)
    assert read_radiograph(path).pixel_sha256 == read_radiograph(make_dicom(tmp_path / "y", even)).pixel_sha256


@pytest.mark.parametrize("rubbish", [b"\0" * 999, b"\xff" * 3001, np.random.default_rng(0).bytes(2000)])
@pytest.mark.parametrize("name", ["explicit little endian", "JPEG-LS"])
def test_rubbish_behind_the_pixel_data_changes_nothing(tmp_path, make_dicom, picture, name, rubbish):
    content = make_dicom(tmp_path / "x", picture, LOSSLESS[name]).read_bytes()
    assert read_bytes(content + rubbish).pixel_sha256 == read_bytes(content).pixel_sha256


def test_a_deflate_bomb_is_refused_before_it_is_inflated(tmp_path, make_dicom, picture):
    content = make_dicom(tmp_path / "x", picture, LOSSLESS["deflated"]).read_bytes()
    meta = pydicom.filereader.read_file_meta_info(tmp_path / "x")
    start = 132 + 12 + meta.FileMetaInformationGroupLength
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(2**24)
    bomb = b"".join(packer.compress(zeros) for _ in range(48)) + packer.flush()  # 768 MB of nothing
    tracemalloc.start()
    with pytest.raises(Rejected, match="too_large"):
        read_bytes(content[:start] + bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def test_a_header_that_claims_65535_squared_is_refused_before_memory_is_taken(tmp_path, make_dicom, picture):
    path = make_dicom(tmp_path / "x", picture, Rows=65535, Columns=65535)
    tracemalloc.start()
    assert outcome_of(path) == "too_large"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_compressed_frame_of_another_size_than_the_header_is_not_decoded(tmp_path, make_dicom, picture):
    assert outcome_of(make_dicom(tmp_path / "x", picture, LOSSLESS["JPEG 2000"], Rows=97)) == "undecodable"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"NumberOfFrames": 2}, "multiframe"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"PhotometricInterpretation": None}, "photometric"),
        ({"Modality": "CT"}, "modality"),
        ({"Modality": "MG"}, "modality"),
        ({"Modality": "OT", "BodyPartExamined": None}, "body_part"),
        ({"Modality": "", "BodyPartExamined": ""}, "body_part"),
        ({"BodyPartExamined": "HIP"}, "body_part"),
        ({"BodyPartExamined": "CHEST ABDOMEN"}, "body_part"),
        ({"BodyPartExamined": "L SPINE"}, "body_part"),
        ({"BodyPartExamined": "PA"}, "body_part"),
        ({"PatientID": ""}, "no_patient_id"),
        ({"PatientID": None}, "no_patient_id"),
        ({"BurnedInAnnotation": "YES"}, "burned_in"),
        ({"BitsAllocated": 12}, "undecodable"),
        ({"Rows": 0}, "undecodable"),
        ({"Rows": 63}, "too_small"),
    ],
)
def test_outcomes_that_the_header_decides(tmp_path, make_dicom, picture, elements, expected):
    assert outcome_of(make_dicom(tmp_path / "x", picture, **elements)) == expected


@pytest.mark.parametrize(
    "elements",
    [
        {"Modality": "CR", "BodyPartExamined": None},
        {"Modality": "OT", "BodyPartExamined": " Chest "},
        {"Modality": "", "BodyPartExamined": "thorax"},
        {"BodyPartExamined": "T SPINE"},
        {"BodyPartExamined": "RIBS"},
        {"BodyPartExamined": "Lung"},
        {"BurnedInAnnotation": "NO"},
        {"ViewPosition": "LL"},
        {"BodyPartExamined": "CHEST 2V"},
        {"BodyPartExamined": "RIBS UNILATERAL"},
        {"BodyPartExamined": "CHEST/RIBS"},
    ],
)
def test_headers_that_are_taken(tmp_path, make_dicom, picture, elements):
    assert read_radiograph(make_dicom(tmp_path / "x", picture, **elements)).pixels.shape == (96, 80)


def test_outcomes_of_files_that_are_no_images(tmp_path, make_dicom, picture):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("a letter to the radiologist\n" * 40)
    (tmp_path / "noise").write_bytes(b"\x08\0" + np.random.default_rng(0).bytes(5000))
    assert outcome_of(tmp_path / "empty") == "empty_file"
    assert outcome_of(tmp_path / "text") == "not_dicom"
    assert outcome_of(tmp_path / "noise") == "not_dicom"
    path = make_dicom(tmp_path / "report", picture)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = b""
    dataset.save_as(path)
    assert outcome_of(path) == "no_pixel_data"
    del dataset.PixelData
    dataset.save_as(path)
    assert outcome_of(path) == "no_pixel_data"


@pytest.mark.parametrize("behind", [9, 12, 13])
def test_a_file_cut_at_the_head_of_its_pixel_data_is_truncated(tmp_path, make_dicom, picture, behind):
    content = make_dicom(tmp_path / "x", picture).read_bytes()
    (tmp_path / "cut").write_bytes(content[: content.rindex(b"\xe0\x7f\x10\0OW") + behind])
    assert outcome_of(tmp_path / "cut") == "truncated"


def test_pixels_of_one_bit_are_told_of_and_rejected_as_the_header_says(tmp_path, make_dicom):
    # A segmentation, eight pixels a byte, the first in the lowest bit: here every third one is set.
    mask = (np.arange(72 * 64).reshape(72, 64) % 3 == 0).astype(np.uint8)
    path = make_dicom(tmp_path / "x", mask, Modality="SEG", BitsAllocated=1, BitsStored=1, HighBit=0)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = np.packbits(mask, bitorder="little").tobytes()
    dataset.save_as(path)
    found = explain_file(path)
    assert found.outcome == "modality"
    assert found.mean == pytest.approx(mask.mean(), abs=1e-6)


def test_a_constant_image_is_one_also_where_only_padding_differs(tmp_path, make_dicom, picture):
    flat = np.full_like(picture, 700)
    assert outcome_of(make_dicom(tmp_path / "flat", flat)) == "constant_image"
    flat[:10] = 0
    assert outcome_of(make_dicom(tmp_path / "padded", flat, PixelPaddingValue=0)) == "constant_image"


def test_a_file_without_preamble_reads_and_one_without_transfer_syntax_does_not(tmp_path, make_dicom, picture):
    path = make_dicom(tmp_path / "x", picture)
    whole = read_radiograph(path)
    # The mark may stand at the start as well, where a preamble was cut off.
    for start in (128, 132):
        assert read_bytes(path.read_bytes()[start:]).pixel_sha256 == whole.pixel_sha256
    content = path.read_bytes()
    # (0002,0010) UI in explicit little endian: overwrite the value by blanks of the same length.
    at = content.index(b"\x02\0\x10\0UI")
    length = struct.unpack("<H", content[at + 6 : at + 8])[0]
    path.write_bytes(content[: at + 8] + b"\0" * length + content[at + 8 + length :])
    assert outcome_of(path) == "no_transfer_syntax"


@pytest.mark.parametrize(
    ("elements", "aspect", "spacing"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, 2.0, 0.2),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.15, 0.15]}, 1.0, 0.15),
        ({"PixelSpacing": [0, 0]}, 1.0, None),
        ({"PixelAspectRatio": ["3", "2"]}, 1.5, None),
        ({"PixelAspectRatio": ["0", "2"]}, 1.0, None),
        ({}, 1.0, None),
    ],
)
def test_physical_aspect_is_height_over_width_of_a_pixel(tmp_path, make_dicom, picture, elements, aspect, spacing):
    radiograph = read_radiograph(make_dicom(tmp_path / "x", picture, **elements))
    assert radiograph.aspect == pytest.approx(aspect)
    assert radiograph.facts.spacing == spacing


@pytest.mark.parametrize(
    ("elements", "age"),
    [
        ({"PatientAge": "095Y"}, 90.0),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "1200M"}, 90.0),
        ({"PatientAge": None, "PatientBirthDate": "1920.06.15", "StudyDate": "20200614"}, 90.0),
        ({"PatientAge": "62"}, 62.0),
        ({"PatientAge": None, "PatientBirthDate": "19500615", "StudyDate": "20200614"}, 69.0),
        ({"PatientAge": None}, None),
    ],
)
def test_age_is_in_years_and_capped(tmp_path, make_dicom, picture, elements, age):
    assert read_radiograph(make_dicom(tmp_path / "x", picture, **elements)).facts.age == age


def test_facts_hold_closed_terms_only(tmp_path, make_dicom, picture):
    path = make_dicom(tmp_path / "x", picture, ViewPosition="see Dr Who", PatientSex="W", PatientAge="old")
    facts = read_radiograph(path).facts
    assert (facts.view, facts.sex, facts.age, facts.burned_in) == ("", "", None, "unknown")


def test_each_outcome_has_a_remedy():
    assert set(REMEDIES) == set(OUTCOMES)


def test_real_radiographs_have_their_known_outcomes(shared_data):
    folder = shared_data / "dicom"
    rsna = read_radiograph(folder / "rsna_cr_chest.dcm")
    assert rsna.facts.voi_source == "percentile"
    assert rsna.facts.lossy
    fuji = read_radiograph(folder / "RG1_JLSN.dcm")
    assert fuji.facts.inverted
    assert fuji.aspect == 1.0
    assert fuji.facts.spacing is None
    for name in ("RG2_J2KI.dcm", "RG3_JPLL.dcm", "RG3_JPLY.dcm"):
        assert outcome_of(folder / name) == "body_part"


def test_twelve_bit_jpeg_with_a_faulty_scan_header_decodes_close_to_its_lossless_twin(shared_data):
    everything = Policy(body_parts=frozenset({"EXTREMITY"}))
    lossless = read_radiograph(shared_data / "dicom" / "RG3_JPLL.dcm", everything)
    lossy = read_radiograph(shared_data / "dicom" / "RG3_JPLY.dcm", everything)
    assert np.abs(lossless.pixels - lossy.pixels).mean() < 0.01


def test_our_decoders_agree_with_pydicom_on_its_own_files():
    from nc_medfl.data.dicom.decode import decode_frame

    for name in ("CT_small.dcm", "MR_small_expb.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"):
        dataset = pydicom.dcmread(pydicom.data.get_testdata_file(name, download=False))
        expected = dataset.pixel_array
        found = decode_frame(dataset, str(dataset.file_meta.TransferSyntaxUID)).stored
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("seed", range(60))
def test_a_mutated_file_is_rejected_or_gives_a_picture(tmp_path, make_dicom, picture, seed):
    rng = np.random.default_rng(seed)
    syntax = list(LOSSLESS.values())[seed % len(LOSSLESS)]
    content = bytearray(
        make_dicom(tmp_path / "x", picture, syntax, WindowCenter="2000", WindowWidth="900").read_bytes()
    )
    for at in rng.integers(128, min(len(content), 1200), size=4):
        content[at] = rng.integers(0, 256)
    with contextlib.suppress(Rejected):  # whose outcomes are of the closed list by construction and by mypy
        radiograph = read_bytes(bytes(content))
        assert np.isfinite(radiograph.pixels).all()
        assert radiograph.pixels.min() >= 0
        assert radiograph.pixels.max() <= 1


def test_nothing_is_printed_or_warned_about_a_header(tmp_path, make_dicom, picture, recwarn, capsys):
    content = make_dicom(tmp_path / "x", picture).read_bytes().replace(b"062Y", b"SECR")
    assert read_bytes(content).facts.age is None
    assert "SECR" not in capsys.readouterr().err
    assert not [w for w in recwarn.list if "SECR" in str(w.message)]


def test_a_reduced_jpeg2000_is_half_as_wide_and_shows_nearly_the_same(tmp_path, make_dicom):
    rows, cols = np.mgrid[0:512, 0:480]
    film = (2000 + 1200 * np.sin(rows / 15) + 600 * np.cos(cols / 9)).astype(np.uint16)
    header = {"BitsStored": 12, "HighBit": 11, "WindowCenter": "2000", "WindowWidth": "4000"}
    content = make_dicom(tmp_path / "x", film, LOSSLESS["JPEG 2000"], **header).read_bytes()
    full, half = read_bytes(content), read_bytes(content, jpeg2000_reduce=1)
    assert half.picture.shape == (256, 240)
    assert half.facts == full.facts
    difference = half.picture.fit(128)[0].astype(int) - full.picture.fit(128)[0].astype(int)
    # A wavelet's average sits half a pixel beside an area's: 0.5 x (1200 / 15 + 600 / 9) x 2 / pi levels of 4000.
    assert np.abs(difference).mean() < 0.5 * (80 + 67) * 0.64 / 4000 * 255
    # More levels than the frame has, and signed values, are decoded whole.
    assert read_bytes(content, jpeg2000_reduce=32).pixel_sha256 == full.pixel_sha256
