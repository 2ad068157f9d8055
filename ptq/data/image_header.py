"""ImageHeader: the format and the size of an image by its first bytes, before anything decodes it.

A small file can claim a picture that fills the memory, and a decoder tries whatever a file looks like: only the four
formats that `ptq.data.image_files.SUFFIXES` names are passed on, by their content, whatever the file is called.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from ptq.errors import BadData

MOST_PIXELS = 89_478_485
"""Of one image: what Pillow decodes without a warning; 268 MB as RGB."""
MOST_SCANS = 100
"""Of a progressive JPEG; encoders write some 10, and each makes the decoder go over the whole picture."""
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # tables, among the codes that begin a frame
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without content


class ImageHeader(NamedTuple):
    """`format` as Pillow calls it; `width` and `height` in pixels, as the file claims them."""

    format: str
    width: int
    height: int


def image_header(data: bytes, path: Path) -> ImageHeader:
    """What an image file says of itself.

    Raises `BadData`, naming `path`, for a file that is cut short or none of JPEG, PNG, BMP and WebP, and for one that
    claims no pixel or more than `MOST_PIXELS`.
    """
    if _is_cut_short(data):
        raise BadData(f"{path}: ends in the middle of the image ({len(data)} bytes): copy it again")
    try:
        header = _header(data)
    except (struct.error, IndexError):
        header = None
    if header is None:
        raise BadData(f"{path}: begins as no JPEG, PNG, BMP or WebP does ({len(data)} bytes), but should be an image")
    if min(header.width, header.height) < 1 or header.width * header.height > MOST_PIXELS:
        raise BadData(
            f"{path}: {header.width} x {header.height} pixels, but should be at least 1 and at most {MOST_PIXELS:,} in "
            "all: a crafted file, or one to make smaller first"
        )
    if header.format == "JPEG" and (scans := data.count(b"\xff\xda")) > MOST_SCANS:
        raise BadData(f"{path}: {scans} scans, but a JPEG should have at most {MOST_SCANS}: save it again")
    return header


def _header(data: bytes) -> ImageHeader | None:
    if data.startswith(_JPEG):
        return _jpeg(data)
    if data.startswith(_PNG):
        return ImageHeader("PNG", *struct.unpack_from(">II", data, 16))
    if data.startswith(b"BM"):
        core = struct.unpack_from("<I", data, 14)[0] == 12
        width, height = struct.unpack_from("<HH" if core else "<ii", data, 18)
        return ImageHeader("BMP", width, abs(height))  # below 0 from top to bottom
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def _jpeg(data: bytes) -> ImageHeader | None:
    """The size in the first frame's header; a thumbnail's lies inside a segment that is passed over."""
    at = 2
    while data[at] == 0xFF:
        code = data[at + 1]
        if code == 0xFF or code in _ALONE:
            at += 1 if code == 0xFF else 2
        elif 0xC0 <= code <= 0xCF and code not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ImageHeader("JPEG", width, height)
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":  # 24 bits each, less 1
        return ImageHeader("WEBP", *(1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27)))
    if kind == b"VP8L":  # 14 bits each, less 1
        bits = struct.unpack_from("<I", data, 21)[0]
        return ImageHeader("WEBP", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        return ImageHeader("WEBP", *(side & 0x3FFF for side in struct.unpack_from("<HH", data, 26)))
    return None


def _is_cut_short(data: bytes) -> bool:
    # Inside compressed JPEG data 0xFF is always followed by 0x00 or a restart marker, so an end marker after the
    # last start of scan is the real one (a thumbnail's comes before).
    if data.startswith(_JPEG):
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    return data.startswith(_PNG) and b"IEND" not in data[-64:]
