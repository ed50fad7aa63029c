"""Where an archive is and who asks; no secret is ever repeated."""

from __future__ import annotations

import pytest

from nc_medfl.data.pacs.address import Credentials, check_secrecy, parse_address, read_credentials
from nc_medfl.errors import UserError

USER, PASSWORD, TOKEN, CA = (f"NC_MEDFL_DICOMWEB_{name}" for name in ("USER", "PASSWORD", "TOKEN", "CA"))


@pytest.mark.parametrize(
    ("text", "url", "loopback"),
    [
        ("dicomweb://127.0.0.1:8042/dicom-web", "http://127.0.0.1:8042/dicom-web", True),
        ("dicomweb://localhost/dicom-web/", "http://localhost/dicom-web", True),
        ("dicomweb://[::1]:8042/rs", "http://[::1]:8042/rs", True),
        ("dicomwebs://pacs.hospital.example:8443/a/b", "https://pacs.hospital.example:8443/a/b", False),
        ("dicomweb+https://pacs", "https://pacs", False),
        ("dicomweb+http://10.0.0.5:80", "http://10.0.0.5:80", False),
        # Looks local and is not.
        ("dicomweb://127.0.0.1.example.org/x", "http://127.0.0.1.example.org/x", False),
        ("dicomweb://localhost.example.org/x", "http://localhost.example.org/x", False),
    ],
)
def test_addresses(text, url, loopback):
    address = parse_address(text)
    assert (address.url, address.loopback) == (url, loopback)
    assert address.encrypted == url.startswith("https")


@pytest.mark.parametrize(
    "text",
    [
        *("", "pacs:8042", "http://pacs/x", "dicomweb://", "dicomweb://:80/x", "dicomweb://pacs:port/x"),
        *("dicomweb://pacs:99999/x", "dicomweb://pacs/x?key=1", "dicomweb://pacs/x#1", "dicomweb://[::1/x"),
        *("dicomweb:/pacs/x", "dicomweb://pacs/a b", "dicomweb://pa cs/"),
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(UserError, match="dicomwebs://HOST:PORT/PATH"):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["dicomweb://anna:secret@pacs/x", "https://anna:secret@pacs", "dicomweb://anna:se/cret@p"]
)
def test_credentials_in_the_address_are_refused_and_not_repeated(text):
    with pytest.raises(UserError, match=f"leave user and password out.*{USER}") as caught:
        parse_address(text)
    assert "anna" not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_credentials_come_from_the_environment():
    assert read_credentials({}) == Credentials()
    assert not read_credentials({USER: "", TOKEN: ""})
    assert read_credentials({USER: "anna", PASSWORD: "a:b"}).user == ("anna", "a:b")
    assert read_credentials({TOKEN: "abc.def"}).token == "abc.def"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({USER: "anna"}, f"{USER} is set and {PASSWORD} is not"),
        ({PASSWORD: "hush"}, f"{PASSWORD} is set and {USER} is not"),
        ({USER: "anna", PASSWORD: "hush", TOKEN: "hush"}, "both set"),
        ({USER: "an:na", PASSWORD: "hush"}, "can't hold ':'"),
        ({TOKEN: "hush\nhush"}, f"{TOKEN}: holds a space"),
        ({TOKEN: "Bearer hush"}, f"{TOKEN}: holds a space"),
        ({CA: "/nowhere/hush.pem"}, f"{CA}: no such file"),
    ],
)
def test_bad_credentials_are_told_without_repeating_them(environment, message):
    with pytest.raises(UserError, match=message) as caught:
        read_credentials(environment)
    assert "hush" not in str(caught.value)


def test_credentials_show_nothing_of_themselves():
    assert "hush" not in repr(Credentials(("anna", "hush"), "hush"))


@pytest.mark.parametrize(
    ("text", "insecure", "refused"),
    [
        ("dicomweb://pacs/x", False, True),
        ("dicomweb://pacs/x", True, False),
        ("dicomwebs://pacs/x", False, False),
        ("dicomweb://127.0.0.1/x", False, False),
    ],
)
def test_credentials_cross_no_network_in_clear_text_unless_allowed(text, insecure, refused):
    address = parse_address(text)
    check_secrecy(address, Credentials(), insecure_http=insecure)
    if refused:
        with pytest.raises(UserError, match=r"clear text.*--insecure-http"):
            check_secrecy(address, Credentials(token="x"), insecure_http=insecure)
    else:
        check_secrecy(address, Credentials(token="x"), insecure_http=insecure)
