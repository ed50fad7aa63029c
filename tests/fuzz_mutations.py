"""Seeded damage to DICOM files: what disks, networks, broken writers and hostile people do to them.

Each mutation takes the bytes of a file and a random generator, and gives other bytes. They work on bytes, or on the
places of the elements as pydicom finds them, and never raise: a file that can't be parsed is damaged blindly.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from random import Random

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_preamble

#: A text that stands in every text element of a marked file, and must not come back.
MARK = "Zq7xMark"
LONG_VRS = {b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
VRS = [*LONG_VRS, *(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US ZZ".split()), b"\0\0"]
SYNTAXES = ["1.2.840.10008.1.2", *(f"1.2.840.10008.1.2{end}" for end in (".1", ".2", ".1.99", ".5", ".1.98"))]
SYNTAXES += [f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70, 80, 81, 90, 91, 201, 203, 100, 66)]
SYNTAXES += ["", "1.2.3", "\0\0", "9" * 64, MARK]
HOSTILE_NUMBERS = [0, 1, 2, 3, 7, 8, 12, 15, 16, 17, 31, 32, 33, 63, 64, 127, 255, 256, 32767, 32768, 65534, 65535]
HOSTILE_LENGTHS = [
    0,
    1,
    2,
    3,
    0x7FFF,
    0xFFFE,
    0xFFFF,
    0x10000,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 3,
    2**32 - 2,
    2**32 - 1,
]
HOSTILE_TEXTS = ["", " ", "0", "-1", "abc", "1e400", "nan", "inf", "-inf", "1e308", "1e-308", "\\", "0\\0", "1\\2\\3"]
HOSTILE_TEXTS += [
    "-1e308\\1e308",
    "1\\",
    "\\1",
    "9" * 60,
    "1,5",
    "0x10",
    MARK,
    "é" * 8,
    "\x1b$B\x1b",
    "2000\\abc",
    "\0\0",
]
FORM_TAGS = {  # of 16-bit numbers that shape the picture
    "SamplesPerPixel": 0x00280002,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
}
PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True)
class Place:
    """Where an element of the top level stands in a file: tag, header, value (``stop`` behind it)."""

    tag: int
    start: int
    value: int
    stop: int
    explicit: bool
    little: bool

    @property
    def long(self) -> bool:
        """Whether the length field has four bytes."""
        return self.value - self.start != 8 or not self.explicit


def places(content: bytes) -> list[Place]:
    """The elements of the data set, without those of the file meta information; none where it can't be parsed."""
    try:
        dataset = pydicom.dcmread(BytesIO(content), force=True)
    except Exception:
        return []
    found = []
    for element in dataset._dict.values():
        if not isinstance(element, RawDataElement) or not 8 <= element.value_tell <= len(content):
            continue
        explicit = not element.is_implicit_VR
        vr = content[element.value_tell - 8 : element.value_tell - 6] if explicit else b""
        start = element.value_tell - (12 if vr in LONG_VRS else 8)
        length = element.length if element.length != 0xFFFFFFFF else len(element.value or b"") + 8
        stop = min(element.value_tell + length, len(content))
        found.append(Place(int(element.tag), start, element.value_tell, stop, explicit, element.is_little_endian))
    return found


def encoded(place: Place, tag: int, vr: bytes, value: bytes) -> bytes:
    """An element in the encoding of its neighbour."""
    order = "<" if place.little else ">"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not place.explicit:
        return head + struct.pack(order + "L", len(value)) + value
    if vr in LONG_VRS:
        return head + vr + b"\0\0" + struct.pack(order + "L", len(value)) + value
    return head + vr + struct.pack(order + "H", len(value) & 0xFFFF) + value


def put(content: bytes, tag: int, vr: bytes, value: bytes) -> bytes:
    """Set an element of the top level, in place of the one that is there, or in its order."""
    everything = places(content)
    if not everything:
        return content
    value = value + (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    after = next((p for p in everything if p.tag >= tag), None)
    at = after.start if after is not None else everything[-1].stop
    stop = after.stop if after is not None and after.tag == tag else at
    return content[:at] + encoded(everything[0], tag, vr, value) + content[stop:]


def _some(content: bytes, rng: Random) -> Place | None:
    """Any element, the ones that matter to a picture more often."""
    found = places(content)
    picture = [p for p in found if p.tag >> 16 in (0x0028, 0x7FE0)]
    return rng.choice(picture if picture and rng.random() < 0.5 else found) if found else None


def _pixels(content: bytes) -> Place | None:
    return next((p for p in places(content) if p.tag == PIXEL_DATA), None)


def _number(place: Place, number: int) -> bytes:
    return struct.pack("<H" if place.little else ">H", number)


def _flip(content: bytes, rng: Random, start: int, stop: int, most: int) -> bytes:
    out = bytearray(content)
    stop = min(stop, len(out))
    if stop <= start:
        return content
    for _ in range(rng.randint(1, most)):
        out[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_in_header(content: bytes, rng: Random) -> bytes:
    """Bits flipped before the pixel data."""
    pixels = _pixels(content)
    return _flip(content, rng, 128, pixels.value if pixels else min(len(content), 2000), 8)


def flip_in_pixels(content: bytes, rng: Random) -> bytes:
    """Bits flipped in the pixel data or in what leads a compressed frame."""
    pixels = _pixels(content)
    start = pixels.value if pixels else 128
    return _flip(content, rng, start, start + 600 if rng.random() < 0.5 else len(content), 16)


def flip_anywhere(content: bytes, rng: Random) -> bytes:
    """Bits flipped anywhere."""
    return _flip(content, rng, 0, len(content), 64)


def truncate(content: bytes, rng: Random) -> bytes:
    """Cut anywhere: in the meta information, the header, the frame, the last bytes."""
    pixels = _pixels(content)
    middle = pixels.value if pixels else len(content) // 2
    spans = [(0, 132), (132, 400), (132, middle), (middle - 12, middle + 80), (middle, len(content))]
    spans += [(len(content) - 16, len(content))]
    low, high = rng.choice(spans)
    return content[: rng.randint(max(low, 0), max(low, high, 0))]


def splice(content: bytes, rng: Random) -> bytes:
    """A stretch removed, doubled or overwritten by zeros, 0xFF or noise."""
    at = rng.randrange(len(content) + 1)
    size = rng.choice([1, 2, 7, 128, 512, 4096, 65536])
    kind = rng.randrange(5)
    if kind == 0:
        return content[:at] + content[at + size :]
    if kind == 1:
        return content[: at + size] + content[at : at + size] + content[at + size :]
    fill = [b"\0" * size, b"\xff" * size, rng.randbytes(size)][kind - 2]
    return content[:at] + fill + content[at + size :]


def swap_bytes(content: bytes, rng: Random) -> bytes:
    """Neighbouring bytes swapped, in a stretch or everywhere behind the preamble."""
    start = rng.choice([0, 132, rng.randrange(len(content) + 1)])
    stop = rng.choice([len(content), min(len(content), start + rng.choice([2, 16, 256]))])
    out = bytearray(content[start : stop - (stop - start) % 2])
    out[0::2], out[1::2] = out[1::2], out[0::2]
    return content[:start] + bytes(out) + content[start + len(out) :]


def swap_tags(content: bytes, rng: Random) -> bytes:
    """The tags of two elements change places, or one becomes any tag."""
    one, other = _some(content, rng), _some(content, rng)
    if one is None or other is None:
        return flip_anywhere(content, rng)
    out = bytearray(content)
    out[one.start : one.start + 4] = content[other.start : other.start + 4]
    back = content[one.start : one.start + 4] if rng.random() < 0.7 else rng.randbytes(4)
    out[other.start : other.start + 4] = back
    return bytes(out)


def hostile_length(content: bytes, rng: Random) -> bytes:
    """An element says that it has another length."""
    place = _some(content, rng)
    if place is None:
        return flip_anywhere(content, rng)
    order = "<" if place.little else ">"
    length = rng.choice([*HOSTILE_LENGTHS, place.stop - place.value + rng.choice([-2, -1, 1, 2]), len(content)])
    kind, most = ("L", 0xFFFFFFFF) if place.long else ("H", 0xFFFF)
    field = struct.pack(order + kind, length & most)
    return content[: place.value - len(field)] + field + content[place.value :]


def hostile_meta(content: bytes, rng: Random) -> bytes:
    """Lengths and values of the file meta information."""
    at = content.find(b"\x02\0", 128, 4000)
    if at < 0:
        return flip_anywhere(content, rng)
    starts = [at]
    while (at := content.find(b"\x02\0", at + 1, 1000)) > 0:
        starts.append(at)
    at = rng.choice(starts)
    kind = rng.randrange(3)
    if kind == 0:
        return content[: at + 6] + struct.pack("<H", rng.choice(HOSTILE_LENGTHS) & 0xFFFF) + content[at + 8 :]
    if kind == 1:
        return content[: at + 8] + struct.pack("<L", rng.choice(HOSTILE_LENGTHS)) + content[at + 12 :]
    return content[:at] + rng.randbytes(rng.randint(1, 12)) + content[at:]


def delete_elements(content: bytes, rng: Random) -> bytes:
    """Elements left out, the ones of the picture above all."""
    for _ in range(rng.randint(1, 4)):
        place = _some(content, rng)
        if place is not None:
            content = content[: place.start] + content[place.stop :]
    return content


def duplicate_elements(content: bytes, rng: Random) -> bytes:
    """An element once more, there or elsewhere."""
    place, target = _some(content, rng), _some(content, rng)
    if place is None or target is None or place.tag == PIXEL_DATA:
        return content + content[-rng.randint(1, 64) :]
    copy = content[place.start : place.stop]
    return content[: target.start] + copy * rng.randint(1, 3) + content[target.start :]


def change_vr(content: bytes, rng: Random) -> bytes:
    """Another value representation, of the same or another length field."""
    place = _some(content, rng)
    if place is None or not place.explicit:
        return swap_tags(content, rng)
    return content[: place.start + 4] + rng.choice(VRS) + content[place.start + 6 :]


def other_syntax(content: bytes, rng: Random) -> bytes:
    """Another transfer syntax in the meta information, whose group length is kept true or not."""
    at = content.find(b"\x02\0\x10\0UI", 0, 4000)
    if at < 0:
        return swap_bytes(content, rng)
    length = struct.unpack("<H", content[at + 6 : at + 8])[0]
    uid = rng.choice(SYNTAXES).encode()
    uid += b"\0" * (len(uid) % 2)
    out = content[: at + 6] + struct.pack("<H", len(uid)) + uid + content[at + 8 + length :]
    group = content.find(b"\x02\0\0\0UL\x04\0", 0, 200)
    if group < 0 or rng.random() < 0.2:
        return out
    size = struct.unpack("<L", content[group + 8 : group + 12])[0] + len(uid) - length
    return out[: group + 8] + struct.pack("<L", max(size, 0)) + out[group + 12 :]


def hostile_form(content: bytes, rng: Random) -> bytes:
    """Rows, Columns, bits and samples that can't be, one to three of them."""
    for tag in rng.sample(list(FORM_TAGS.values()), rng.randint(1, 3)):
        first = places(content)[:1]
        if first:
            content = put(content, tag, b"US", _number(first[0], rng.choice(HOSTILE_NUMBERS)))
    if rng.random() < 0.2:
        content = put(
            content, 0x00280008, b"IS", rng.choice([*HOSTILE_TEXTS, "1", "2", "-5", "1000000"]).encode("utf-8")
        )
    return content


_TEXTS = {
    **dict.fromkeys((0x00281050, 0x00281051, 0x00281052, 0x00281053), b"DS"),
    **dict.fromkeys((0x00280030, 0x00181164, 0x00182010), b"DS"),
    **dict.fromkeys((0x00280034, 0x00280008, 0x00200013), b"IS"),
    **dict.fromkeys((0x00280004, 0x00280301, 0x00281056, 0x00080060, 0x00180015, 0x00080005, 0x00185101), b"CS"),
    **dict.fromkeys((0x00100020, 0x00081030), b"LO"),
    0x00100010: b"PN",
    0x00101010: b"AS",
    0x00080020: b"DA",
    0x00080018: b"UI",
}
_WINDOWS = ["2000", "0", "-1", "1", "0.5", "nan", "inf", "-inf", "1e308", "-1e308", "1e-300", "4096", "abc", ""]


def hostile_texts(content: bytes, rng: Random) -> bytes:
    """Texts, numbers and terms that aren't what they should be, the window's among them."""
    for tag in rng.sample(list(_TEXTS), rng.randint(1, 4)):
        value = rng.choice(HOSTILE_TEXTS).encode("utf-8" if rng.random() < 0.8 else "latin-1", "replace")
        content = put(content, tag, _TEXTS[tag], value)
    if rng.random() < 0.6:
        for tag in (0x00281050, 0x00281051):
            many = [rng.choice(_WINDOWS) for _ in range(rng.randint(1, 3))]
            content = put(content, tag, b"DS", "\\".join(many).encode())
    return content


def hostile_padding(content: bytes, rng: Random) -> bytes:
    """Pixel padding of any value and representation."""
    for tag in (0x00280120, 0x00280121):
        vr = rng.choice([b"US", b"SS", b"DS", b"LO", b"FD", b"UL"])
        content = put(content, tag, vr, rng.choice([b"\0\0", b"\xff\xff", b"\0\x80", rng.randbytes(8), b"12", b""]))
    return content


def hostile_lut(content: bytes, rng: Random) -> bytes:
    """Modality and VOI look-up tables with descriptors that lie."""
    first = places(content)[:1]
    if not first:
        return flip_anywhere(content, rng)
    numbers = [rng.choice([*HOSTILE_NUMBERS, 4096]) for _ in range(rng.choice([0, 1, 2, 3, 3, 3, 3, 4]))]
    descriptor = b"".join(_number(first[0], n) for n in numbers)
    entries = rng.choice([0, 1, 2, 255, 256, 4096, numbers[0] if numbers else 5])
    data = rng.choice([rng.randbytes(2 * entries), rng.randbytes(entries), b"\0\0" * entries])[:65534]
    body = encoded(first[0], 0x00283002, rng.choice([b"US", b"SS", b"LO", b"OW"]), descriptor)
    body += encoded(first[0], 0x00283006, rng.choice([b"US", b"OW", b"OW", b"SS", b"UN"]), data)
    order = "<" if first[0].little else ">"
    item = struct.pack(order + "HHL", 0xFFFE, 0xE000, len(body)) + body
    return put(content, rng.choice([0x00283000, 0x00283010]), b"SQ", item * rng.choice([1, 1, 2]))


def damage_markers(content: bytes, rng: Random) -> bytes:
    """Segments of a compressed frame: markers changed, their lengths and contents hostile."""
    pixels = _pixels(content)
    if pixels is None:
        return flip_anywhere(content, rng)
    spots = [n for n in range(pixels.value, min(len(content) - 4, pixels.value + 4000)) if content[n] == 0xFF]
    end = content.rfind(b"\xff\xd9")
    spots += [end] if end > 0 else []
    if not spots:
        return flip_in_pixels(content, rng)
    out = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.choice(spots)
        kind = rng.randrange(4)
        if kind == 0:
            out[at + 1] = rng.choice(
                [0xC0, 0xC1, 0xC3, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xF7, 0xF8, 0x4F, 0x51, 0x52, 0x93]
            )
        elif kind == 1 and at + 4 <= len(out):
            out[at + 2 : at + 4] = struct.pack(">H", rng.choice(HOSTILE_LENGTHS) & 0xFFFF)
        elif at + 30 < len(out):
            for _ in range(rng.randint(1, 4)):
                out[at + rng.randint(2, 29)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(out)


def damage_fragments(content: bytes, rng: Random) -> bytes:  # noqa: C901 one branch a kind of damage
    """Fragments dropped, doubled, emptied, cut in two, of odd or lying length; offset tables of garbage."""
    pixels = _pixels(content)
    if pixels is None or content[pixels.value : pixels.value + 4] != b"\xfe\xff\x00\xe0":
        return hostile_length(content, rng)
    items, at = [], pixels.value
    while content[at : at + 4] == b"\xfe\xff\x00\xe0" and len(items) < 200:
        size = struct.unpack("<L", content[at + 4 : at + 8])[0]
        items.append(content[at + 8 : at + 8 + size])
        at += 8 + size
    tail = content[at:]
    kind = rng.randrange(8)
    n = rng.randrange(len(items))
    if kind == 0:
        del items[n]
    elif kind == 1:
        items.insert(n, items[n])
    elif kind == 2:
        items[n] = b""
    elif kind == 3:
        cut = rng.randrange(len(items[n]) + 1)
        items[n : n + 1] = [items[n][:cut], items[n][cut:]]
    elif kind == 4:
        items[0] = rng.randbytes(rng.choice([1, 3, 4, 8, 400]))
    elif kind == 5:
        items[0] = struct.pack("<2L", rng.choice(HOSTILE_LENGTHS), rng.choice(HOSTILE_LENGTHS))
    elif kind == 6:
        items += [b""] * rng.choice([1, 3, 20000])
    else:
        tail = tail[8:] if rng.random() < 0.5 else rng.randbytes(8)
    sizes = [len(item) for item in items]
    if rng.random() < 0.2 and sizes:
        sizes[rng.randrange(len(sizes))] = rng.choice(HOSTILE_LENGTHS)
    body = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<L", s) + i for s, i in zip(sizes, items, strict=True))
    return content[: pixels.value] + body + tail


def bomb(content: bytes, rng: Random) -> bytes:
    """The data set deflated, with a bomb behind or in place of its end."""
    first = places(content)[:1]
    at = content.find(b"\x02\0\x10\0UI", 0, 4000)
    if not first or at < 0 or not first[0].explicit:
        return nested(content, rng)
    length = struct.unpack("<H", content[at + 6 : at + 8])[0]
    uid = b"1.2.840.10008.1.2.1.99"
    head = content[: at + 6] + struct.pack("<H", len(uid)) + uid + content[at + 8 + length : first[0].start]
    group = head.find(b"\x02\0\0\0UL\x04\0")
    if group > 0:
        size = struct.unpack("<L", head[group + 8 : group + 12])[0] + len(uid) - length
        head = head[: group + 8] + struct.pack("<L", size) + head[group + 12 :]
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(content[first[0].start :])
    for _ in range(rng.choice([0, 1, 4, 12])):
        body += packer.compress(bytes(2**24))
    return head + body + (packer.flush() if rng.random() < 0.8 else b"")


def nested(content: bytes, rng: Random) -> bytes:
    """Sequences in sequences, of defined or undefined length, closed or not."""
    first = places(content)[:1]
    if not first:
        return flip_anywhere(content, rng)
    depth = rng.choice([10, 100, 400, 1000, 10_000])
    place, order = first[0], "<" if first[0].little else ">"
    undefined = rng.random() < 0.7
    if not undefined:
        depth = min(depth, 1000)
    opened = encoded(place, 0x00091010, b"SQ", b"")[:-4] + struct.pack(order + "L", 0xFFFFFFFF)
    opened += struct.pack(order + "HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack(order + "HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    if undefined:
        inner = opened * depth + closed * (depth if rng.random() < 0.8 else depth // 2)
    else:
        inner = b""
        for _ in range(depth):
            item = struct.pack(order + "HHL", 0xFFFE, 0xE000, len(inner)) + inner
            inner = encoded(place, 0x00091010, b"SQ", item)
    after = next((p for p in places(content) if p.tag > 0x00091010), place)
    return content[: after.start] + inner + content[after.start :]


def many_elements(content: bytes, rng: Random) -> bytes:
    """Very many tiny private elements, or items of a sequence."""
    found = places(content)
    after = next((p for p in found if p.tag > 0x00110000), None)
    if after is None:
        return flip_anywhere(content, rng)
    count = rng.choice([1000, 20_000, 65_000])
    if rng.random() < 0.5:
        order = "<" if after.little else ">"
        head = encoded(after, 0x00111010, b"SQ", b"")[:-4] + struct.pack(order + "L", 0xFFFFFFFF)
        item = struct.pack(order + "HHL", 0xFFFE, 0xE000, 0)
        junk = head + item * count + struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0)
    else:
        junk = b"".join(encoded(after, 0x00110000 + n, b"LO", b"") for n in range(1, count))
    return content[: after.start] + junk + content[after.start :]


def without_start(content: bytes, rng: Random) -> bytes:
    """No preamble, no mark, no meta information, or something before them."""
    first = places(content)[:1]
    start = first[0].start if first else 132
    return rng.choice(
        [content[128:], content[132:], content[start:], rng.randbytes(128) + content[128:], b"\0" + content]
    )


Mutation = Callable[[bytes, Random], bytes]
MUTATIONS: tuple[Mutation, ...] = (
    *(flip_in_header, flip_in_header, flip_in_pixels, flip_in_pixels, flip_anywhere, truncate, truncate, truncate),
    *(splice, swap_bytes, swap_tags, swap_tags, hostile_length, hostile_length, hostile_length, hostile_meta),
    *(
        delete_elements,
        duplicate_elements,
        change_vr,
        change_vr,
        other_syntax,
        other_syntax,
        hostile_form,
        hostile_form,
    ),
    *(hostile_texts, hostile_texts, hostile_padding, hostile_lut, damage_markers, damage_markers, damage_fragments),
    *(bomb, nested, many_elements, without_start),
)


def marked(content: bytes) -> bytes:
    """The file with :data:`MARK` in texts that name a person, where it can be parsed."""
    for tag, vr in ((0x00100010, b"PN"), (0x00100020, b"LO"), (0x00081030, b"LO"), (0x00090010, b"LO")):
        content = put(content, tag, vr, MARK.encode())
    return content


def mutate(content: bytes, seed: int) -> tuple[bytes, list[str]]:
    """A marked file with one to three mutations, and their names."""
    rng = Random(seed)
    content, names = marked(content), []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutation = rng.choice(MUTATIONS)
        content = mutation(content, rng) if content else content
        names.append(mutation.__name__)
        if mutation in (bomb, nested, many_elements):
            break  # whatever came next would have to parse what is made to be hard to parse
    return content, names


__all__ = ["MARK", "MUTATIONS", "Place", "marked", "mutate", "places", "put", "read_preamble"]
