"""Photos come out upright, as plain RGB, without a trace of where they were taken; anything else is a named refusal."""

import io
import os
import random
import struct
import warnings
import zlib

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from reverse_lib.photos import Photo, PhotoError, crop, load_photo
from reverse_lib.photos import photo as module
from reverse_lib.photos.photo import to_pixels

pillow_heif.register_heif_opener()

SECRETS = (b"SECRETMAKER", b"SECRETXMP", b"SECRETCOMMENT", b"SECRETPROFILE")
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>SECRETXMP</x:xmpmeta>"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters():
    """48 x 32 pixels: red, green above blue, white."""
    image = Image.new("RGB", (48, 32), RED)
    for colour, box in ((GREEN, (24, 0, 48, 16)), (BLUE, (0, 16, 24, 32)), (WHITE, (24, 16, 48, 32))):
        image.paste(colour, box)
    return image


def exif(orientation=1):
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, "SECRETMAKER"
    position = block.get_ifd(0x8825)
    position[1], position[2], position[3], position[4] = "N", (48.0, 51.0, 24.0), "E", (2.0, 21.0, 3.0)
    return block.tobytes()


def encoded(image, kind, **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def with_everything(kind, orientation=1):
    settings = {"exif": exif(orientation), "quality": 95, "icc_profile": b"SECRETPROFILE" * 20}
    if kind == "JPEG":
        settings |= {"xmp": XMP, "comment": b"SECRETCOMMENT", "subsampling": 0}
    elif kind == "WEBP":
        settings |= {"xmp": XMP, "lossless": True}
    elif kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "SECRETCOMMENT")
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        settings["pnginfo"] = text
    else:
        settings |= {"xmp": XMP, "chroma": 444}
        del settings["icc_profile"]
    return encoded(quarters(), kind, **settings)


def corners(image):
    """Colours at the middle of the four quarters: top left, top right, bottom left, bottom right."""
    across, down = image.width // 4, image.height // 4
    return [
        image.getpixel(point)
        for point in ((across, down), (3 * across, down), (across, 3 * down), (3 * across, 3 * down))
    ]


def close(colours, expected, tolerance=12):
    return np.abs(np.subtract(colours, expected, dtype=int)).max() <= tolerance


KINDS = ["JPEG", "PNG", "WEBP", "HEIF"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_loses_every_block_of_metadata(kind):
    data = with_everything(kind)
    assert b"SECRETMAKER" in data or kind == "PNG"
    image = load_photo(data)
    assert (type(image), image.mode, image.size, image.info, image.format) == (Image.Image, "RGB", (48, 32), {}, None)
    assert close(corners(image), [RED, GREEN, BLUE, WHITE])
    assert len(image.getexif()) == 0
    assert not image.getexif().get_ifd(0x8825)
    assert not any(secret in encoded(image, saved) for secret in SECRETS for saved in ("JPEG", "PNG", "WEBP"))
    assert b"Exif" not in encoded(image, "JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
        (9, [RED, GREEN, BLUE, WHITE]),
        (0, [RED, GREEN, BLUE, WHITE]),
    ],
)
def test_a_photo_is_turned_upright_by_its_exif(kind, orientation, expected):
    image = load_photo(with_everything(kind, orientation))
    assert image.size == ((32, 48) if 5 <= orientation <= 8 else (48, 32))
    assert close(corners(image), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_heic_photo_is_turned_once_and_not_twice(orientation):
    expected = {1: [RED, GREEN, BLUE, WHITE], 3: [WHITE, BLUE, GREEN, RED], 6: [BLUE, RED, WHITE, GREEN]}
    image = load_photo(with_everything("HEIF", orientation))
    assert close(corners(image), expected.get(orientation, [GREEN, WHITE, RED, BLUE]))


def png(bits, colours, rows, side=2):
    """A square PNG, written by hand."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PLAIN = quarters()
CLEAR = PLAIN.convert("RGBA")
CLEAR.paste((255, 0, 0, 0), (0, 0, 24, 16))
CLEAR.paste((0, 0, 255, 128), (0, 16, 24, 32))
CLEAR_GREY = Image.merge("LA", (Image.new("L", (48, 32), 100), CLEAR.getchannel("A")))
PALETTE = PLAIN.convert("P", palette=Image.Palette.ADAPTIVE)
BEHIND_RED, BEHIND_CLEAR = [WHITE, GREEN, BLUE, WHITE], [WHITE, GREEN, (127, 127, 255), WHITE]
GREY = [(value,) * 3 for value in (100, 177)]
FRAMES = {"save_all": True, "append_images": [PLAIN.rotate(180)]}
MODES = {  # what: data, colours at the four corners
    "transparent PNG": (encoded(CLEAR, "PNG"), BEHIND_CLEAR),
    "transparent WebP": (encoded(CLEAR, "WEBP", lossless=True), BEHIND_CLEAR),
    "transparent grey": (encoded(CLEAR_GREY, "PNG"), [WHITE, GREY[0], GREY[1], GREY[0]]),
    "palette": (encoded(PALETTE, "PNG"), [RED, GREEN, BLUE, WHITE]),
    "palette without red": (encoded(PALETTE, "PNG", transparency=PALETTE.getpixel((2, 2))), BEHIND_RED),
    "GIF without red": (encoded(PALETTE, "GIF", transparency=PALETTE.getpixel((2, 2))), BEHIND_RED),
    "PNG without green": (encoded(PLAIN, "PNG", transparency=GREEN), [RED, WHITE, BLUE, WHITE]),
    "CMYK": (encoded(PLAIN.convert("CMYK"), "JPEG", quality=95), [RED, GREEN, BLUE, WHITE]),
    "grey": (encoded(PLAIN.convert("L"), "PNG"), [(76,) * 3, (150,) * 3, (29,) * 3, WHITE]),
    "black and white": (encoded(PLAIN.convert("1", dither=0), "PNG"), [(0,) * 3, WHITE, (0,) * 3, WHITE]),
    "16 bits of colour": (png(16, 2, (b"\0" + struct.pack(">HHH", 65_535, 32_768, 0) * 2) * 2), [(255, 128, 0)] * 4),
    "first frame, GIF": (encoded(PLAIN, "GIF", **FRAMES), [RED, GREEN, BLUE, WHITE]),
    "first frame, PNG": (encoded(PLAIN, "PNG", **FRAMES), [RED, GREEN, BLUE, WHITE]),
    "first frame, WebP": (encoded(PLAIN, "WEBP", lossless=True, **FRAMES), [RED, GREEN, BLUE, WHITE]),
    "a phone's two pictures": (encoded(PLAIN, "MPO", quality=95, subsampling=0, **FRAMES), [RED, GREEN, BLUE, WHITE]),
    **{
        f"16 bits, {value}": (encoded(Image.fromarray(np.full((32, 48), value, np.uint16)), "PNG"), [(grey,) * 3] * 4)
        for value, grey in ((0, 0), (256, 1), (32_768, 128), (65_535, 255))
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_with_white_behind_what_is_transparent(mode):
    data, expected = MODES[mode]
    image = load_photo(data)
    assert image.mode == "RGB"
    assert close(corners(image), expected, 12 if mode in ("CMYK", "a phone's two pictures") else 1)


def test_a_path_and_bytes_are_read(tmp_path):
    path = tmp_path / "a photo ü.jpg"
    path.write_bytes(data := with_everything("JPEG"))
    assert {load_photo(source).size for source in (str(path), path, data)} == {(48, 32)}


@pytest.mark.parametrize("side", [10_001, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    with pytest.raises(PhotoError, match=r"<bytes>: .*pixels.*; scale it down first"):
        load_photo(png(8, 0, bytes(1000), side))


def test_the_limits_are_inclusive_and_named(monkeypatch):
    data = with_everything("PNG")
    monkeypatch.setattr(module, "MAX_PIXELS", 48 * 32)
    monkeypatch.setattr(module, "MAX_BYTES", len(data))
    assert load_photo(data).size == (48, 32)
    monkeypatch.setattr(module, "MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(PhotoError, match="<bytes>: 48 x 32 pixels, the limit is 1,535 pixels; scale it down"):
        load_photo(data)
    monkeypatch.setattr(module, "MAX_BYTES", len(data) - 1)
    with pytest.raises(PhotoError, match=f"<bytes>: over {len(data) - 1:,} bytes; scale it down"):
        load_photo(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_cut_anywhere_is_refused_with_its_reason(kind, tmp_path):
    data = with_everything(kind)
    path = tmp_path / "cut.photo"
    for length in [*range(1, len(data) - 1, max(1, len(data) // 60)), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(PhotoError, match=rf"cut.photo: .*{length:,} bytes.*; .*export it again"):
            load_photo(path)


NO_IMAGES = [b"x", b"hello world" * 100, b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8\xff"]
NO_IMAGES += [b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", bytes(5000)]
NO_IMAGES += [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]


@pytest.mark.parametrize("data", NO_IMAGES)
def test_what_is_no_image_is_refused_with_its_size_and_a_remedy(data, tmp_path):
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(PhotoError, match=rf"x.jpg: not an image \({len(data):,} bytes, .*\); export it again as JPEG"):
        load_photo(tmp_path / "x.jpg")


def test_files_that_can_not_be_read_are_refused_by_name_with_a_remedy(tmp_path):
    (tmp_path / "empty.jpg").touch()
    for path, reason in (
        (tmp_path / "none.jpg", "none.jpg: no such file; check"),
        (tmp_path, "is a directory; give the path of one photo"),
        (tmp_path / "empty.jpg", r"empty.jpg: the file is empty \(0 bytes\); copy"),
        (tmp_path / "empty.jpg" / "deeper.jpg", "deeper.jpg'?: .*; check"),
        ("a\0b.jpg", r"a\\x00b.jpg': can't be read \(.*null byte.*\); check"),
        ("x" * 5000, "can't be read .*; check"),
        (b"", r"<bytes>: the file is empty \(0 bytes\)"),
    ):
        with pytest.raises(PhotoError, match=reason):
            load_photo(path)


def damaged(data, start, length, generator):
    changed = bytearray(data)
    for _ in range(generator.choice([1, 3, 20])):
        changed[start + generator.randrange(length)] = generator.randrange(256)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*KINDS, "GIF", "AVIF"])
def test_a_damaged_photo_loads_or_is_refused_and_nothing_else(kind, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 10_000_000)
    data = encoded(quarters(), "GIF") if kind == "GIF" else with_everything(kind)
    generator, outcomes = random.Random(8), set()
    for _ in range(200):
        try:
            outcomes.add(load_photo(damaged(data, 0, len(data), generator)).mode)
        except PhotoError as error:
            assert str(error).startswith("<bytes>: ")
            outcomes.add("refused")
    assert outcomes <= {"RGB", "refused"}
    assert "refused" in outcomes


@pytest.mark.filterwarnings("ignore")
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\0\0\0\x18ftypheic"]),
)
def test_any_bytes_are_refused_or_loaded(data, start):
    try:
        assert load_photo(start + data).mode == "RGB"
    except PhotoError as error:
        assert "; " in str(error)


def test_a_photo_loads_from_its_source_and_says_so_when_it_has_none(tmp_path):
    (tmp_path / "a.png").write_bytes(with_everything("PNG"))
    assert Photo("a", tmp_path / "a.png").load().size == (48, 32)
    assert Photo("a", with_everything("PNG"), 1.0, 2.0).load().size == (48, 32)
    with pytest.raises(PhotoError, match="photo 'a': has no source; give"):
        Photo("a", None).load()


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([0, 0, 1000, 1000], (0, 0, 640, 480)),
        ([250, 500, 750, 1000], (160, 240, 480, 480)),
        ([1, 1, 2, 2], (0, 0, 2, 1)),
        ([1000, 1000, 1000, 1000], (639, 479, 640, 480)),
        ([500, 500, 500, 500], (320, 240, 321, 241)),
    ],
)
def test_a_box_covers_whole_pixels_of_the_picture_and_at_least_one(box, pixels):
    assert to_pixels(box, 640, 480) == pixels


@given(st.lists(st.floats(0, 1000), min_size=4, max_size=4), st.integers(1, 5000), st.integers(1, 5000))
def test_every_box_gives_pixels_inside_the_picture(edges, width, height):
    x1, x2, y1, y2 = sorted(edges[:2]) + sorted(edges[2:])
    left, top, right, bottom = to_pixels([x1, y1, x2, y2], width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_a_crop_shows_what_the_box_covers():
    cut = crop(quarters(), [500, 0, 1000, 500])
    assert cut.size == (24, 16)
    assert cut.getcolors() == [(24 * 16, GREEN)]


def png_chunks(header, rows, *extra):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    body = chunk(b"IHDR", header) + b"".join(chunk(*one) for one in extra)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_text_chunk_that_unpacks_to_a_lot_does_not_stop_the_photo():
    bomb = b"Comment\0\0" + zlib.compress(bytes(50_000_000))
    data = png_chunks(struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0), b"\0\xff\0\0\xff\0\0" * 2, (b"zTXt", bomb))
    assert load_photo(data).getpixel((1, 1)) == RED


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match="pipe.jpg: is a device or pipe; give"):
        load_photo(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("warnings_are", ["ignore", "error"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_exif_does_not_stop_a_photo(kind, warnings_are):
    data, block = with_everything(kind, 1), exif()[6:]
    start, generator = data.index(block[:8]), random.Random(5)
    with warnings.catch_warnings():
        warnings.simplefilter(warnings_are)
        for _ in range(150):
            image = load_photo(damaged(data, start, min(len(block), 150), generator))
            assert sorted(image.size) == [32, 48]


SEGMENTS = [
    b"Exif\0\0",
    b"Exif\0\0MM\0*",
    b"MPF\0",
    b"MPF\0II*\0\x08\0\0\0",
    b"ICC_PROFILE\0",
    b"Photoshop 3.0\0",
    b"JFIF",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", [*SEGMENTS, b"Adobe", b""])
def test_junk_in_any_application_segment_does_not_stop_a_jpeg(start):
    data, generator = encoded(quarters(), "JPEG", quality=95, subsampling=0), random.Random(7)
    for marker in (*range(0xE0, 0xEE), 0xEF, 0xFE):
        for length in (0, 1, 2, 9, 300):
            body = start + generator.randbytes(length)
            segment = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
            assert sorted(load_photo(data[:2] + segment + data[2:]).size) == [32, 48]
