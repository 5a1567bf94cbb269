"""One photo: reading the pixels of anyone's file, and nothing but the pixels; cutting regions out of it.

A photo comes out as plain RGB, upright, in a new image object: EXIF, GPS position, XMP, colour profile and comments
stay behind, so nothing but the picture can tell an agent where it was taken. Size is checked before anything is
decoded; what can't be read is a `PhotoError` that names the file, the reason and what to do about it.

Colour profiles are dropped, not applied. Of an animation the first frame is taken. Transparent parts turn white.
Metadata that Pillow stumbles over is ignored; damaged pixels are not.
"""

import base64
import math
import os
import stat
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF")
MAX_PIXELS = 100_000_000  # width x height; Pillow's own limit, twice `Image.MAX_IMAGE_PIXELS`, stays in force beside it
MAX_BYTES = 200_000_000

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82"
_RE_EXPORT = "export it again as JPEG or PNG"


class PhotoError(ValueError):
    """A photo that can't be used; the message names it, the reason and a remedy."""


@dataclass(frozen=True)
class Photo:
    """A photo and what is known about it.

    Attributes:
        photo_id: Name in caches and trajectories; never an absolute path.
        source: File, or the file's content; `None` where a subclass makes the picture.
        lat: True latitude in degrees, `None` when unknown.
        lon: True longitude in degrees, `None` when unknown.
        country: True country, "" when unknown.
        city: True city, "" when unknown.
        regions: Boxes [x1, y1, x2, y2] in 0..1000 of the parts that tell the place.
    """

    photo_id: str
    source: Path | bytes | None
    lat: float | None = None
    lon: float | None = None
    country: str = ""
    city: str = ""
    regions: tuple[tuple[int, int, int, int], ...] = ()

    def load(self) -> Image.Image:
        """Returns the picture: RGB, upright, without metadata.

        Raises:
            PhotoError: If there is no source or `load_photo` refuses it.
        """
        if self.source is None:
            raise PhotoError(f"photo {self.photo_id!r}: has no source; give it a file or bytes")
        return load_photo(self.source)


def crop(image: Image.Image, bbox_2d: Sequence[float]) -> Image.Image:
    """Cuts a box, [x1, y1, x2, y2] in 0..1000 and checked by `geo.as_box`, out of a picture, at its own resolution."""
    return image.crop(to_pixels(bbox_2d, *image.size))


def data_url(image: Image.Image, kind: str = "JPEG", max_px: int | None = None, quality: int = 90) -> str:
    """A picture as text that a page or a chat server takes: nothing but pixels, no metadata.

    Args:
        image: Any picture.
        kind: "JPEG", or "PNG" for exactly its pixels.
        max_px: Longest side; a larger picture is scaled down.
        quality: Of a JPEG, 1 to 95.
    """
    clean, data = image.convert("RGB"), BytesIO()
    if max_px is not None:
        clean.thumbnail((max_px, max_px))
    clean.info.clear()
    clean.save(data, kind, **({"quality": quality, "optimize": True} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def to_pixels(bbox_2d: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """The pixels that a box touches: (left, top, right, bottom), right and bottom exclusive, at least one each way."""
    x1, y1, x2, y2 = bbox_2d  # fractions are kept: rounded to thousandths, a box of a large photo would move
    left, top = min(math.floor(x1 * width / 1000), width - 1), min(math.floor(y1 * height / 1000), height - 1)
    return left, top, max(math.ceil(x2 * width / 1000), left + 1), max(math.ceil(y2 * height / 1000), top + 1)


def load_photo(path_or_bytes: str | os.PathLike | bytes) -> Image.Image:
    """Reads a JPEG, PNG, WebP, HEIC, AVIF or GIF photo of up to `MAX_PIXELS` and `MAX_BYTES`.

    Args:
        path_or_bytes: A file's path, or its content.

    Returns:
        An RGB image, upright, with nothing attached.

    Raises:
        PhotoError: If there is no such file, or it is empty, too large, damaged or no photo.
    """
    name, data = _read(path_or_bytes)
    if not data:
        raise PhotoError(f"{name}: the file is empty (0 bytes); copy it again from where it came")
    if len(data) > MAX_BYTES:
        raise PhotoError(f"{name}: over {MAX_BYTES:,} bytes; scale it down first")
    _register_heif()
    try:
        return _decode(name, data)
    except PhotoError:
        bare = _without_metadata(data)
        if len(bare) == len(data):
            raise
        with suppress(PhotoError):  # the second attempt's reason would be about a file the user doesn't have
            return _decode(name, bare)
        raise


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line of at most 200 characters."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]


@cache
def _register_heif() -> None:
    """Teaches Pillow HEIC; on first use, since it takes time that importing shouldn't."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def _read(source: str | os.PathLike | bytes) -> tuple[str, bytes]:
    """A name for messages, and the file's content, of one that is too large only its beginning."""
    if isinstance(source, bytes):
        return "<bytes>", source
    name = os.fsdecode(source)
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode):
            raise PhotoError(f"{name}: is a directory; give the path of one photo in it")
        if not stat.S_ISREG(mode):  # opening a pipe may wait for ever
            raise PhotoError(f"{name}: is a device or pipe; give the path of a photo file")
        with open(source, "rb") as file:
            return name, file.read(MAX_BYTES + 1)
    except PhotoError:
        raise
    except FileNotFoundError as error:
        raise PhotoError(f"{name}: no such file; check the path and its spelling") from error
    except (OSError, ValueError) as error:  # a ValueError for a null byte
        raise PhotoError(f"{name!r}: can't be read ({reason_of(error)}); check the path and its permissions") from error


def _decode(name: str, data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)  # the header only
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(f"{name}: too many pixels ({reason_of(error)}); scale it down first") from error
    except Exception as error:  # damaged files make Pillow and its plugins raise anything, also struct.error
        reason = f"{len(data):,} bytes, not a readable JPEG, PNG, WebP, HEIC, AVIF or GIF"
        raise PhotoError(f"{name}: not an image ({reason}); {_RE_EXPORT}") from error
    with image:
        width, height = image.size
        if not 0 < width * height <= MAX_PIXELS:
            size = f"{width:,} x {height:,} pixels, the limit is {MAX_PIXELS:,} pixels"
            raise PhotoError(f"{name}: {size}; scale it down first")
        try:
            if image.format == "PNG" and _PNG_END not in data:
                raise EOFError("the end is missing")
            image.load()
            with suppress(Exception):  # damaged EXIF is no damaged picture
                ImageOps.exif_transpose(image, in_place=True)
            plain = Image.new("RGB", image.size)  # pixels and nothing else: a copy would keep what Pillow knows of it
            plain.paste(_rgb(image))
            return plain
        except Exception as error:
            reason = f"{image.format}, {len(data):,} bytes, can't be decoded: {reason_of(error)}"
            raise PhotoError(f"{name}: damaged or truncated ({reason}); copy it again or {_RE_EXPORT}") from error


def _without_metadata(data: bytes) -> bytes:
    """Drops metadata Pillow may stumble over from a JPEG or PNG; anything else is returned as it is."""
    if data.startswith(b"\xff\xd8"):
        return _bare_jpeg(data)
    return _bare_png(data) if data.startswith(_PNG_START) else data


def _bare_jpeg(data: bytes) -> bytes:
    """Keeps everything but comments and application segments; Adobe's (APP14) stays, it says how colours are coded."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker, end = data[at + 1], at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        if not 0xE0 <= marker <= 0xEF and marker != 0xFE or marker == 0xEE and end - at >= 14:
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + data[at:]


def _bare_png(data: bytes) -> bytes:
    """Keeps the chunks that make the picture, and an orientation whose checksum is right."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and sound):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: 16 bits are scaled down, transparency is laid over white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.clip(np.asarray(image.convert("I"), dtype=np.float64), 0, 65535)  # (height, width)
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
