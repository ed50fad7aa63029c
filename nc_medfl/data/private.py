"""What a site keeps to itself, in ``site_private/``: the salt, the way back to the sources, work in progress.

The folder has mode 0700 and its files 0600, whatever the umask.
"""

from __future__ import annotations

import csv
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nc_medfl.errors import UserError

FOLDER = "site_private"
SALT = "salt.bin"
#: Work in progress; gone once a store is complete.
WORK = "work"
#: In it, the path of the file that a run ended at because the disk didn't give it.
UNREADABLE = "unreadable.txt"
#: Published images have published identifiers: a known salt gives everybody the same keys.
PUBLIC_SALT = b"nc_medfl: a public data set needs no secret"
_MIN_SALT = 16
#: What a spreadsheet takes for a formula, and our own mark.
_FORMULA = ("=", "+", "-", "@", "'")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")
_ESCAPED = re.compile(r"\\(\\|u[0-9a-f]{4})")


def private_folder(store: Path) -> Path:
    """``site_private`` of a store, made if need be, for its owner only."""
    folder = store / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def private_subfolder(folder: Path) -> Path:
    """A folder inside ``site_private``, made if need be, for its owner only."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def open_private(path: Path, *, append: bool = False) -> BinaryIO:
    """Open a file for writing that only its owner may read; a former one is emptied, or appended to."""
    how = os.O_APPEND if append else os.O_TRUNC
    stream = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "ab" if append else "wb")
    # Asked for again: the umask may have taken the owner's own rights, an older file may have more.
    path.chmod(0o600)
    return stream


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    with _replacing(path) as stream:
        stream.write(content)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A private file that takes the place of another once it is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open_private(temporary) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_private_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV that only its owner may read, its cells made safe by :func:`safe_cell`."""
    with _replacing(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([safe_cell(cell) for cell in row] for row in rows)
        text.flush()
        text.detach()


def safe_cell(text: str) -> str:
    r"""A text for a CSV that people open in spreadsheets and terminals; :func:`plain_cell` undoes it.

    Control characters, bytes of file names that are no UTF-8 and backslashes are written as escapes, and a quote
    stands before what a spreadsheet would take for a formula.

    Example:
        >>> safe_cell("=1+1\n")
        "'=1+1\\u000a"
    """
    plain = _UNSAFE.sub(lambda found: "\\\\" if found[0] == "\\" else f"\\u{ord(found[0]):04x}", text)
    return f"'{plain}" if plain.lstrip().startswith(_FORMULA) else plain


def plain_cell(text: str) -> str:
    """The inverse of :func:`safe_cell`."""
    text = text.removeprefix("'")
    return _ESCAPED.sub(lambda found: "\\" if found[1] == "\\" else chr(int(found[1][1:], 16)), text)


def clear_temporaries(store: Path) -> None:
    """Remove half-written files that a killed run left; to be called under the store's lock."""
    for folder in (store, store / "shards", store / FOLDER):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def clear_work(store: Path) -> None:
    """Remove the work in progress."""
    shutil.rmtree(store / FOLDER / WORK, ignore_errors=True)


def load_salt(store: Path, salt_file: Path | None, *, public: bool, anew: bool = False) -> bytes:
    """The secret that keys identifiers: the given file, or the store's own, made at the first run.

    Args:
        store: the store's folder.
        salt_file: the given file.
        public: whether the images are published, so that keys need no secret.
        anew: whether a store that stands is to be made anew, so that its keys may change.

    Raises:
        UserError: if the file can't be read or holds fewer than 16 bytes, or a store stands whose salt is gone.
    """
    if salt_file is None and public:
        return PUBLIC_SALT
    path = salt_file or private_folder(store) / SALT
    if salt_file is None and not path.exists():
        if not anew and (store / "manifest.parquet").is_file():
            raise UserError(
                f"{path}: the salt that this store was keyed with isn't there. Put it back from its backup, or give it "
                "as --salt-file. If it is lost, 'prepare --replace' makes the store anew, with other keys "
                "(docs/how-to/salt.md)."
            )
        write_private(path, secrets.token_bytes(32))
    try:
        salt = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: the salt cannot be read ({error.strerror}). Make one with: head -c 32 /dev/urandom > FILE"
        ) from error
    if len(salt) < _MIN_SALT:
        raise UserError(f"{path}: a salt needs {_MIN_SALT} bytes or more, this has {len(salt)}. Make a longer one.")
    return salt
