"""Lists of benchmarks and own folders: each published layout, and every bad row named, counted and left out."""

import ast
import csv
import os
import tempfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import reverse_lib
from reverse_lib.photos import Listing, Photo, folder, load
from reverse_lib.photos.listing import read_rows

JPEG = BytesIO()
Image.new("RGB", (24, 16), "teal").save(JPEG, "jpeg")
JPEG = JPEG.getvalue()


@pytest.fixture
def put(tmp_path):
    """A function: files in a folder, photos where no content is given; returns the folder."""

    def make(*photos, **lists):
        root = tmp_path / "set"
        for name in photos:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(JPEG)
        for name, text in lists.items():
            data = text if isinstance(text, bytes) else text.encode()
            (root / name.replace("__", ".")).write_bytes(data)
        return root

    return make


def places(listing: Listing) -> list[tuple]:
    return [(one.photo_id, one.lat, one.lon) for one in listing.photos]


def bad(listing: Listing) -> list[tuple]:
    return list(zip(listing.skipped["line"], listing.skipped["path"], listing.skipped["kind"], strict=True))


@pytest.mark.parametrize("at", ["", "images/", "im2gps3ktest/"])
def test_im2gps3k_as_published_with_photos_beside_the_list_or_below(put, at):
    text = "IMG_ID,AUTHOR,LAT,LON,S3_Label\n12_ab_34.jpg,77@N00,48.85,-2.35,1\n99_cd_11.jpg,78@N00,-33.9,151.2,2\n"
    root = put(f"{at}12_ab_34.jpg", f"{at}99_cd_11.jpg", im2gps3k_places365__csv=text, notes__csv="a,b\n1,2\n")
    listing = load("im2gps3k", root)
    assert places(listing) == [("12_ab_34.jpg", 48.85, -2.35), ("99_cd_11.jpg", -33.9, 151.2)]
    assert listing.listed == 2 and listing.photos[0].load().size == (24, 16)


def test_im2gps3k_with_ids_and_places_in_words(put):
    root = put("7.jpg", "8.png", list__csv="id,latitude,longitude,country,city\n7,1.5,2,Spain,Vic\n8,3,4,,\n")
    listing = load("im2gps3k", root / "list.csv")
    assert listing.photos == [Photo("7", root / "7.jpg", 1.5, 2, "Spain", "Vic"), Photo("8", root / "8.png", 3, 4)]


def yfcc_row(layout: tuple, photo: str, lon: str, lat: str, cells: int = 25) -> str:
    row = ["", "", "ab12", "9@N01", "nick%22", "2010-01-01", "1262304000", 'Canon "X"', "a+title", "", "tag", "", ""]
    row += ["", "16", *["x"] * (cells - 15)]
    if layout[0] == 1:
        row[0] = "4711"
    for at, value in zip(layout, (photo, lon, lat), strict=True):
        row[at] = value
    if layout[0] == 0:
        row[layout[2] + 1] = "16"  # accuracy, which would pass for a latitude
    return "\t".join(row)


@pytest.mark.parametrize("layout", [(1, 12, 13), (0, 11, 12)])
def test_yfcc4k_has_no_header_and_its_columns_are_found_in_each_layout_it_was_cut_in(put, layout):
    rows = [yfcc_row(layout, "1001", "2.35", "48.85"), yfcc_row(layout, "1002", "151.2", "-33.9")]
    root = put("images/1001.jpg", "images/1002.jpg", yfcc4k__txt="\r\n".join(rows), README__txt="")
    assert places(load("yfcc4k", root)) == [("1001", 48.85, 2.35), ("1002", -33.9, 151.2)]


def test_yfcc4k_rows_without_place_or_cells_are_named(put):
    layout = (0, 11, 12)
    rows = [yfcc_row(layout, "1", "2.35", "48.85"), yfcc_row(layout, "2", "", ""), "3\tshort", "", "1004"]
    listing = load("yfcc4k", put("1.jpg", "2.jpg", "3.jpg", yfcc4k__tsv="\n".join(rows)))
    assert places(listing) == [("1", 48.85, 2.35)]
    assert bad(listing) == [(2, "2", "coordinates"), (3, "3", "row"), (5, "1004", "row")]


def test_yfcc4k_is_also_read_with_a_header_as_later_copies_have_it(put):
    root = put("5.jpg", yfcc4k_places365__csv="IMG_ID,LAT,LON\n5.jpg,1,2\n")
    assert places(load("yfcc4k", root)) == [("5.jpg", 1, 2)]


@pytest.mark.parametrize("img_id", ["8d_4f_123.jpg", "8d/4f/123.jpg", "8d/4f/8d_4f_123.jpg"])
def test_mp16_pro_photos_lie_two_folders_deep(put, img_id):
    text = f"IMG_ID,LAT,LON,neighbourhood,city,county,country\n{img_id},48.85,2.35,Marais,Paris,,France\n"
    root = put("images/8d/4f/8d_4f_123.jpg", MP16_Pro__csv=text)
    (photo,) = load("folder", root).photos
    assert photo == Photo(img_id, root / "images/8d/4f/8d_4f_123.jpg", 48.85, 2.35, "France", "Paris")


ROWS = [  # row, kind, part of the reason
    ("a.jpg,48.85,2.35", None, ""),
    ("missing.jpg,1,2", "missing", "no such file in"),
    ("sub,1,2", "missing", ""),
    ("b ü.jpg,91,2", "coordinates", "lat '91' isn't degrees within -90..90"),
    ("b ü.jpg,120.5,30", "coordinates", "are lat and lon swapped?"),
    ("b ü.jpg,1,-180.5", "coordinates", "lon '-180.5' isn't degrees within -180..180; correct it"),
    ("b ü.jpg,nan,2", "coordinates", "lat 'nan'"),
    ("b ü.jpg,1,inf", "coordinates", "lon 'inf'"),
    ("b ü.jpg,1_0,2", "coordinates", "lat '1_0'"),
    ("b ü.jpg,1", "coordinates", "lon ''"),
    ("./sub/../a.jpg,1,2", "duplicate", "already listed in line 2; remove one"),
    ("twin.jpg,1,2", "duplicate", "already listed in line 2"),
    ("b ü.jpg,48,85,2,35", "row", "5 cells for 3 columns; quote"),
    (",1,2", "row", "names no photo"),
    ("broken.jpg,1,2", "unreadable", "damaged or truncated"),
    ("empty.jpg,1,2", "unreadable", "empty (0 bytes)"),
    ("notes.txt,1,2", "unreadable", "not an image"),
    ("../outside.jpg,1,2", "outside", "leaves the folder"),
    ("sub/../../outside.jpg,1,2", "outside", "leaves the folder"),
    (r"..\outside.jpg,1,2", "outside", "leaves the folder"),
    ("{outside},1,2", "outside", "leaves the folder"),
    (r"C:\photos\a.jpg,1,2", "outside", "leaves the folder"),
    (r"\\server\share\a.jpg,1,2", "outside", "leaves the folder"),
    ("link.jpg,1,2", "outside", "a link that leaves"),
    ("linked/outside.jpg,1,2", "outside", "a link that leaves"),
    ("a\0.jpg,1,2", "missing", ""),
    ("x" * 5000 + ".jpg,1,2", "missing", ""),
    ("y" * 200_000 + ",1,2", "row", "not readable as CSV"),
    (r"sub\c.jpg,0,0.0", None, ""),
    ("", None, ""),
]


@pytest.fixture
def hostile(put, tmp_path):
    """A folder with everything in it that the bad rows name, and a list of them."""
    root = put("a.jpg", "b ü.jpg", "sub/c.jpg", "../outside.jpg")
    outside = root.parent / "outside.jpg"
    Image.effect_noise((64, 64), 60).save(root / "broken.jpg")
    os.truncate(root / "broken.jpg", 1500)
    (root / "empty.jpg").touch()
    (root / "notes.txt").write_text("no photo")
    (root / "twin.jpg").symlink_to(root / "a.jpg")
    (root / "link.jpg").symlink_to(outside)
    (root / "linked").symlink_to(root.parent)
    text = "path,lat,lon\n" + "\n".join(row.replace("{outside}", str(outside)) for row, _, _ in ROWS)
    (root / "places.csv").write_text(text)
    return root


def test_every_bad_row_is_named_with_its_line_and_reason_and_none_leaves_the_denominator(hostile):
    listing = folder(hostile)
    assert places(listing) == [("a.jpg", 48.85, 2.35), ("sub/c.jpg", 0, 0)]
    expected = [(line, kind, part) for line, (_, kind, part) in enumerate(ROWS, 2) if kind]
    found = list(listing.skipped.itertuples(index=False))
    assert [(row.line, row.kind) for row in found] == [(line, kind) for line, kind, _ in expected]
    for row, (_, _, part) in zip(found, expected, strict=True):
        assert part in row.reason and len(row.reason) < 400, row
    assert listing.listed == len(ROWS) - 1  # the last is blank
    assert listing.counts() == {
        kind: sum(k == kind for _, k, _ in ROWS)
        for kind in ("missing", "coordinates", "duplicate", "row", "unreadable", "outside")
    }


def test_zero_zero_is_kept_and_said_to_be_suspicious(hostile):
    suspicious = folder(hostile).suspicious
    assert suspicious[["line", "path", "kind"]].values.tolist() == [[30, r"sub\c.jpg", "coordinates"]]
    assert "0, 0 lies in the sea" in suspicious["reason"][0]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,lat,lon\nb ü.jpg,48.85,-2.35\n", "utf-8-sig"),
        ("path,lat,lon\nb ü.jpg,48.85,-2.35\n", "utf-16"),
        ("path;lat;lon\r\nb ü.jpg;48,85;-2,35\r\n", "utf-8"),
        ("path\tlat\tlon\rb ü.jpg\t48.85\t-2,35\r", "utf-8"),
        ("\n , ,\n Lon , PATH,lat ,extra\n -2.35 ,  b ü.jpg , 48.85,,,\n\n", "utf-8"),
        ('"path","lat","lon"\n"b ü.jpg", "48.85", "-2.35"', "utf-8"),
        ('note,Image,Longitude,Latitude\n"two\r\nlines, ""quoted""",b ü.jpg,-2.35,48.85\n', "utf-8"),
        ("id,path,lat,lon\n17,b ü.jpg,4.885e1,-2.35\n", "utf-8"),
    ],
)
def test_a_list_may_be_written_as_spreadsheets_write_it(put, text, encoding):
    listing = folder(put("b ü.jpg", list__csv=text.encode(encoding)))
    assert places(listing) == [("b ü.jpg", 48.85, -2.35)] and listing.listed == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"path,lat,lon\n1.jpg,1,2\n12345.j\xfcpg,1,2\n",
            "line 3 is not UTF-8 .byte 0xFC.; save the list as",
        ),
        ("path,lat,lon\na.jpg,1,2\n".encode("utf-16")[:-1], "line 2 is not UTF-16 .byte 0x0A.; save the list as"),
        (b"", "missing columns path, lat, lon; line 1 must be path, lat, lon.* and is nothing"),
        (b"a.jpg,1,2\n", "missing columns path, lat, lon; .* and is a.jpg, 1, 2"),
        (b"path,lat,altitude\na.jpg,1,2\n", "missing columns lon; line 1 must be"),
        (b"path,lat,LAT,lon\n", "column lat occurs twice in line 1; rename"),
    ],
)
def test_a_list_that_is_none_is_refused_by_name_line_and_remedy(put, data, message):
    root = put("a.jpg", list__csv=data)
    with pytest.raises(ValueError, match=f"list.csv: {message}"):
        folder(root)


def test_a_quotation_mark_never_closed_costs_its_own_line_only(put):
    text = 'path,lat,lon\na.jpg,1,2\n"b.jpg,1,2\n' + "".join(f"{i}.jpg,1,2\n" for i in range(100))
    listing = folder(put("a.jpg", "7.jpg", list__csv=text))
    assert [one.photo_id for one in listing.photos] == ["a.jpg", "7.jpg"]
    assert bad(listing)[0] == (3, "", "row") and listing.listed == 102


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("im2gps3k", "/nowhere", "/nowhere: no CSV file there, nor a folder"),
        ("yfcc4k", None, "benchmark yfcc4k: say where the photos are with --root DIR"),
        ("folder", "{empty}", "no CSV file there; write one with columns path, lat, lon"),
        ("folder", "{two}", "2 CSV files there .a.csv, b.csv.; name the one"),
        ("moon", None, "benchmark 'moon': choose one of im2gps3k, yfcc4k, folder"),
    ],
)
def test_a_benchmark_that_is_not_there_is_refused_with_a_remedy(tmp_path, name, root, message):
    (tmp_path / "empty").mkdir(), (tmp_path / "two").mkdir()
    (tmp_path / "two/a.csv").touch(), (tmp_path / "two/b.csv").touch()
    with pytest.raises(ValueError, match=message):
        load(name, root and root.format(empty=tmp_path / "empty", two=tmp_path / "two"))


def test_a_draw_is_spread_over_the_list_part_of_a_larger_draw_and_the_same_each_time(put):
    text = "path,lat,lon\n" + "".join(f"{i}.jpg,{i / 10},0.5\n" for i in range(200))
    root = put(*(f"{i}.jpg" for i in range(0, 200, 2)), list__csv=text)
    small, large = folder(root, n=20), folder(root, n=60)
    lines = [{*one.skipped["line"], *(int(p.lat * 10 + 0.5) + 2 for p in one.photos)} for one in (small, large)]
    assert [one.listed for one in (small, large)] == [20, 60] and lines[0] < lines[1]
    assert len(small.skipped) > 0 and max(lines[0]) > 150 and min(lines[0]) < 50
    assert places(small) == places(folder(root, n=20)) == sorted(places(small), key=lambda place: place[1])
    assert folder(root, n=1000).listed == 200


HEADERS = [b"path,lat,lon\n", b"path;lat;lon\r\n", b"\xef\xbb\xbfID\tLAT\tLON\n", b""]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(HEADERS))
def test_any_bytes_are_rows_or_an_error_that_names_the_file(data, header):
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "list.csv").write_bytes(header + data)
        try:
            listing = folder(root)
        except ValueError as error:
            assert str(error).startswith(os.path.join(root, "list.csv"))
        else:
            assert not listing.photos and listing.listed == len(list(read_rows(Path(root) / "list.csv")))


NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NAMES, st.floats(-90, 90), st.floats(-180, 180)), max_size=8))
def test_rows_that_the_csv_module_wrote_are_read_as_they_were(rows):
    rows = [row for row in rows if row[0].strip() and row[0].count("\n") + row[0].count("\r") < 15]
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "list.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "lat", "lon"), *rows])
        read = [(row.path, float(row.lat), float(row.lon)) for row in read_rows(path)]
    assert read == [(name.strip(), lat, lon) for name, lat, lon in rows]


def test_nothing_but_the_command_line_reads_a_benchmark():
    """Facts: the paper's public code validates on test photos. `folder`, for own photos, is all that others may use."""
    library = Path(reverse_lib.__file__).parent
    for path in library.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "reverse_lib.photos":
                assert "load" not in [name.name for name in node.names], path
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "photos.load":
                assert path.name == "__main__.py", path
