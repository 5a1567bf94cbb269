"""Files in the schemas of the released data set, with its oddities."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from reverse_lib.scale.released import CACHES, IMAGE, RL, SFT, TEXT, TOOLS, ZOOM

FOLDER = "/mnt/somewhere/REVERSE/images"  # absolute, as the keys of the released caches are
CALL = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'
SIGNS = """Image search results for region [100, 100, 400, 300]:
[1] Torre dell'Elefante
    Source: Sardegna Turismo
    Link: https://guide.example/torre
[2] A tower [3] elsewhere
    Source: Flickr
    Link: https://www.flickr.com/photos/2"""
PAGES = """Web search results for: Torre dell'Elefante Cagliari

[1] Cagliari
URL: https://guide.example/cagliari
The tower, 39.22 N.
Built in 1307.
[2] Elephants
    URL: https://zoo.example/
    Big animals."""


def response(text):
    return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}


def said(text):
    return {"role": "assistant", "content": text}


def conversation(*more, answer="Italy, Cagliari, 39.2181, 9.1161"):
    """System, question, a zoom, an image search, a text search, an answer."""
    return [
        {"role": "system", "content": "You are a geolocation expert."},
        {"role": "user", "content": "<image>\nWhere is this?"},
        said("<think>A tower.</think>" + CALL.format(ZOOM, '{"bbox_2d": [0, 0, 500, 500]}')),
        response("<image>"),
        said("<think>Old.</think>\n" + CALL.format(IMAGE, '{"bbox_2d": [100, 100, 400, 300], "goal": "tower"}')),
        response(SIGNS),
        said("<think>[1]</think>\n <useful>[1]</useful>" + CALL.format(TEXT, '{"query": "Torre dell\'Elefante"}')),
        response(PAGES),
        *more,
        said(f"<think>So.</think><useful>[1]</useful><answer>{answer}</answer>"),
    ]


def sft_row(*more, photo="part00_images/a_0.jpg"):
    images = [{"image": f"images/{photo}"}, {"image": "images/part00_images/a_1.jpg"}]
    return {"messages": conversation(*more), "images": images}


def rl_row(number, photo="part00_images/a_0.jpg", truth="39.2150, 9.1100, Italy, Cagliari", km=0.74):
    path = f"images/{photo}"
    info = {"answer": truth, "index": number, "img_id": Path(photo).name, "part": "part00", "difficulty": "easy"}
    info |= {"km": km, "need_tools_kwargs": True, "split": "train"}
    info |= {"tools_kwargs": {tool: {"create_kwargs": {"image": path}} for tool in TOOLS}}
    return {
        "data_source": "coldstart",
        "prompt": conversation()[:2],
        "images": [{"image_url": path}],
        "ability": "geoloc",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "agent_name": "tool_agent",
        "extra_info": info,
    }


def cache_row(title, useful, call, photo, **columns):
    return {
        "image_id": "a.jpg",
        "image_path": f"{FOLDER}/part00_images/{photo}",
        "call_idx": call,
        "result_title": title,
        "is_geo_useful": useful,
        "useful_indices": "[1]",
        "n_useful": 1,
        "call_turn": 3,
        "part": "part00",
    } | columns


def image_row(position, title, useful=False, call=0, photo="a_0.jpg", bbox="[100.0, 100.0, 400.0, 300.0]", **columns):
    texts = {"result_link": title and f"https://guide.example/{title}", "result_source": title and "Guide"}
    asked = {"bbox": bbox, "result_pos": position, "result_thumbnail": ""}
    return cache_row(title, useful, call, photo, **(asked | texts | columns))


def text_row(position, title, useful=False, call=0, photo="a_0.jpg", query="Torre Cagliari", **columns):
    texts = {"result_url": title and f"https://w.example/{title}", "result_content": title and f"All of {title}."}
    return cache_row(title, useful, call, photo, **({"query": query, "result_index": position} | texts | columns))


IMAGE_ROWS = [
    image_row(2, "late", call=1, photo="b_0.jpg"),  # neither sorted by photo, nor by position
    image_row(1, "tower", useful=False),
    image_row(2, "arch"),
    image_row(1, "first", call=1, photo="b_0.jpg", result_source=None),
    image_row(1, "tower of the first", useful=True),  # a duplicate of the second row, and the useful one
    image_row(-1, "", call=2, bbox="[0, 0, 90.5, 1000]"),
    image_row(2, "arch", call=3),  # the same box again
    image_row(1, "tower", useful=True, call=3, result_thumbnail="https://t.example/1.png"),
]
TEXT_ROWS = [
    text_row(1, "cagliari", useful=True, query="Torre Cagliari | Sardinia tower", result_content="a\n  b\x1f é"),
    text_row(2, "zoo", query="Torre Cagliari | Sardinia tower"),
    text_row(-1, "", call=1, query="???! nothing"),
]


def write(path: Path, rows: list[dict], schema: pa.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def make_root(root: Path) -> Path:
    """A folder as it is downloaded."""
    write(
        root / "sft/train_sft_coldstart_v5.parquet",
        [sft_row(), sft_row(said("Hm."), {"role": "user", "content": "Go on."})],
        SFT,
    )
    rows = [rl_row(0), rl_row(1, "part00_images/b_0.jpg", "-1.5, 2, Unknown, Old Town, Upper", None)]
    write(root / "rl/train_rl_v5_full.parquet", rows, RL)
    write(root / "rl_cache/image_search_cache.parquet", IMAGE_ROWS, CACHES[IMAGE])
    write(root / "rl_cache/text_search_cache.parquet", TEXT_ROWS, CACHES[TEXT])
    (root / "images/part00_images").mkdir(parents=True)
    for name in ("a_0.jpg", "b_0.jpg"):
        Image.new("RGB", (40, 30), "teal").save(root / "images/part00_images" / name)
    return root
