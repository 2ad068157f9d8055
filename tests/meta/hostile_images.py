"""Images that are crafted, damaged or fine: those are called good."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(rows or bytes(min((3 * width + 1) * height, 1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def jpeg(width: int, height: int, scans: int = 0) -> bytes:
    """A header, and scans without anything in them."""
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\1\x22\0\2\x11\0\3\x11\0"
    scan = b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\0\0\0"
    return b"\xff\xd8\xff\xc2" + frame + scan * scans + b"\xff\xd9"


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IHHIIiiHHIIIIII", 102, 0, 0, 54, 40, width, height, 1, 24, 0, 48, 0, 0, 0, 0)
    return b"BM" + header + bytes(48)


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


IMAGES = {
    "good.png": png(4, 5),
    "good.bmp": bmp(4, -4),
    "wide.png": png(2**31 - 1, 1),
    "large.png": png(30_000, 30_000),
    "flat.png": png(0, 7),
    "cut.png": png(40, 40)[:60],
    "large.jpg": jpeg(65_500, 65_500, 1),
    "scans.jpg": jpeg(9000, 9000, 5000),
    "no frame.jpg": b"\xff\xd8" + b"\xff\xe0\0\2" * 1000 + b"\xff\xd9",
    "fill.jpg": b"\xff\xd8" + b"\xff" * 1_000_000 + b"\xd9",
    "large.bmp": bmp(30_000, -30_000),
    "below 0.bmp": bmp(-4, 4),
    "least.bmp": bmp(4, -(2**31)),
    "large.webp": webp(b"VP8X", b"\x10\0\0\0" + b"\xff" * 6),
    "lossless.webp": webp(b"VP8L", b"\x2f" + b"\xff" * 4),
    "lossy.webp": webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + b"\xff\x3f\xff\x3f"),
    "none.webp": webp(b"ALPH", b""),
    "gif.png": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(100),
    "tiff.png": b"II*\0\x08\0\0\0" + bytes(100),
    "pnm.png": b"P6\n60000 60000\n255\n" + bytes(100),
    "jp2.jpg": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "nothing.png": b"",
}
