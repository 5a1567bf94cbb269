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


def close(found, expected, tolerance=12):
    return np.abs(np.subtract(found, expected, dtype=int)).max() <= tolerance


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


def rgba():
    image = quarters().convert("RGBA")
    image.paste((255, 0, 0, 0), (0, 0, 24, 16))
    image.paste((0, 0, 255, 128), (0, 16, 24, 32))
    return image


def test_transparent_parts_turn_white():
    half_blue = (127, 127, 255)
    for kind, settings in (("PNG", {}), ("WEBP", {"lossless": True})):
        image = load_photo(encoded(rgba(), kind, **settings))
        assert close(corners(image), [WHITE, GREEN, half_blue, WHITE], 1)
    grey = Image.merge("LA", (Image.new("L", (48, 32), 100), rgba().getchannel("A")))
    assert close(corners(load_photo(encoded(grey, "PNG"))), [WHITE, (100,) * 3, (177,) * 3, (100,) * 3], 1)


def test_a_palette_with_a_transparent_colour_and_one_without_are_converted():
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    assert corners(load_photo(encoded(palette, "PNG"))) == [RED, GREEN, BLUE, WHITE]
    red = palette.getpixel((2, 2))
    assert corners(load_photo(encoded(palette, "PNG", transparency=red))) == [WHITE, GREEN, BLUE, WHITE]
    assert corners(load_photo(encoded(palette, "GIF", transparency=red))) == [WHITE, GREEN, BLUE, WHITE]
    assert corners(load_photo(encoded(quarters(), "PNG", transparency=GREEN))) == [RED, WHITE, BLUE, WHITE]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (256, 1), (32_768, 128), (65_535, 255)])
def test_sixteen_bits_are_scaled_to_eight(value, expected):
    grey = Image.fromarray(np.full((32, 48), value, dtype=np.uint16))
    assert corners(load_photo(encoded(grey, "PNG"))) == [(expected,) * 3] * 4


def test_sixteen_bit_colour_keeps_its_colours():
    rows = b"".join(b"\0" + struct.pack(">HHH", 65_535, 32_768, 0) * 2 for _ in range(2))
    image = load_photo(png_chunks(struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0), rows))
    assert close(image.getpixel((1, 1)), (255, 128, 0), 1)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white_photos_become_rgb(mode):
    image = load_photo(encoded(quarters().convert(mode, dither=Image.Dither.NONE), "PNG"))
    assert image.mode == "RGB"
    assert image.getpixel((40, 24)) == WHITE


def test_cmyk_is_not_inverted():
    image = load_photo(encoded(quarters().convert("CMYK"), "JPEG", quality=95))
    assert close(corners(image), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [quarters(), quarters().transpose(Image.Transpose.ROTATE_180)]
    settings = {"save_all": True, "append_images": frames[1:], "duration": 100} | (
        {"lossless": True} if kind == "WEBP" else {}
    )
    data = encoded(frames[0], kind, **settings)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert corners(load_photo(data)) == [RED, GREEN, BLUE, WHITE]


def test_a_photo_of_two_pictures_as_phones_take_them_gives_the_first():
    data = encoded(quarters(), "MPO", save_all=True, append_images=[quarters().rotate(180)], quality=95, subsampling=0)
    assert close(corners(load_photo(data)), [RED, GREEN, BLUE, WHITE])


def test_a_path_and_bytes_of_any_kind_are_read(tmp_path):
    path = tmp_path / "a photo ü.jpg"
    path.write_bytes(data := with_everything("JPEG"))
    assert {load_photo(source).size for source in (str(path), path, data, bytearray(data), memoryview(data))} == {
        (48, 32)
    }


def png_chunks(header, rows, *extra):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    body = chunk(b"IHDR", header) + b"".join(chunk(*one) for one in extra)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_001, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    data = png_chunks(struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), b"\0" * 1000)
    with pytest.raises(PhotoError, match=r"<bytes>: .*pixels.*; scale it down first"):
        load_photo(data)


def test_the_limits_are_inclusive_and_named():
    data = with_everything("PNG")
    assert load_photo(data, max_pixels=48 * 32, max_bytes=len(data)).size == (48, 32)
    with pytest.raises(PhotoError, match="<bytes>: 48 x 32 pixels, the limit is 1,535 pixels; scale it down"):
        load_photo(data, max_pixels=48 * 32 - 1)
    with pytest.raises(PhotoError, match=f"<bytes>: {len(data):,} bytes, the limit is {len(data) - 1:,} bytes"):
        load_photo(data, max_bytes=len(data) - 1)


def test_a_text_chunk_that_unpacks_to_a_lot_does_not_stop_the_photo():
    bomb = b"Comment\0\0" + zlib.compress(bytes(50_000_000))
    data = png_chunks(struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0), b"\0\xff\0\0\xff\0\0" * 2, (b"zTXt", bomb))
    assert load_photo(data).getpixel((1, 1)) == RED


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
    os.mkfifo(tmp_path / "pipe.jpg")
    for path, reason in (
        (tmp_path / "none.jpg", "none.jpg: no such file; check"),
        (str(tmp_path / "none" / "none.jpg"), "none.jpg: no such file; check"),
        (tmp_path, "is a directory; give the path of one photo"),
        (tmp_path / "empty.jpg", r"empty.jpg: the file is empty \(0 bytes\); copy"),
        (tmp_path / "pipe.jpg", "pipe.jpg: is a device or pipe; give"),
        (tmp_path / "empty.jpg" / "deeper.jpg", "deeper.jpg'?: .*; check"),
        ("a\0b.jpg", r"a\\x00b.jpg': can't be read \(.*null byte.*\); check"),
        ("x" * 5000, "can't be read .*; check"),
        (b"", r"<bytes>: the file is empty \(0 bytes\)"),
        (None, "<NoneType>: not a photo; give a path"),
        (7, "<int>: not a photo; give a path"),
    ):
        with pytest.raises(PhotoError, match=reason):
            load_photo(path)


def damaged(data, start, length, generator):
    changed = bytearray(data)
    for _ in range(generator.choice([1, 3, 20])):
        changed[start + generator.randrange(length)] = generator.randrange(256)
    return bytes(changed)


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*KINDS, "GIF", "AVIF"])
def test_a_damaged_photo_loads_or_is_refused_and_nothing_else(kind):
    data = encoded(quarters(), "GIF") if kind == "GIF" else with_everything(kind)
    generator, outcomes = random.Random(8), set()
    for _ in range(200):
        try:
            outcomes.add(load_photo(damaged(data, 0, len(data), generator), max_pixels=10_000_000).mode)
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
        assert load_photo(start + data, max_pixels=1_000_000).mode == "RGB"
    except PhotoError as error:
        assert "; " in str(error)


def test_loading_leaves_the_file_alone_and_closed(tmp_path):
    path, data = tmp_path / "photo.jpg", with_everything("JPEG", 6)
    path.write_bytes(data)
    image = load_photo(path)
    path.unlink()
    assert image.getpixel((1, 1)) is not None


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
