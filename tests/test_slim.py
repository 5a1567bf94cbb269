"""Executed notebooks get small without losing what they say."""

import base64
import io

import nbformat
import numpy as np
from PIL import Image

from reverse_lib.slim import slim


def png(width, height, noise=True, transparent=False):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 4 if transparent else 3), dtype=np.uint8)
    if transparent:
        pixels[..., 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels if noise else pixels * 0).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def notebook(folder, *data):
    v4 = nbformat.v4
    outputs = [v4.new_output("display_data", data=dict(one)) for one in data]
    cell = v4.new_code_cell("print(1)", outputs=[v4.new_output("stream", text="1\n"), *outputs], execution_count=1)
    path = folder / "05_evaluation.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), cell]), path)
    return path


def test_large_pictures_become_jpegs_of_the_same_size_and_maps_a_word(tmp_path):
    path = notebook(
        tmp_path, {"image/png": png(400, 300)}, {"text/html": "<div>" + "x" * 400_000}, {"text/html": "<b>t</b>"}
    )
    before = path.stat().st_size
    after = nbformat.read(slim(path), as_version=4)
    stream, picture, page, table = after.cells[1].outputs
    assert path.stat().st_size < 0.5 * before and after.cells[1].source == "print(1)" and stream.text == "1\n"
    assert set(picture.data) == {"image/jpeg"}
    assert Image.open(io.BytesIO(base64.b64decode(picture.data["image/jpeg"]))).size == (400, 300)
    assert "maps/" in page.data["text/html"] and table.data["text/html"] == "<b>t</b>"


def test_small_pictures_stay_as_they_are_and_what_is_clear_becomes_white(tmp_path):
    small = png(100, 80, noise=False)
    path = notebook(tmp_path, {"image/png": small}, {"image/png": png(300, 200, transparent=True)})
    _, first, second = nbformat.read(slim(path), as_version=4).cells[1].outputs
    assert first.data["image/png"].strip() == small
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(second.data["image/jpeg"]))))
    assert pixels.min() > 245


def test_a_picture_that_has_a_smaller_jpeg_beside_it_keeps_that(tmp_path):
    path = notebook(tmp_path, {"image/png": png(400, 300), "image/jpeg": "AAAA"})
    assert nbformat.read(slim(path), as_version=4).cells[1].outputs[1].data["image/jpeg"] == "AAAA"
