"""verl can load what we write for it, and its reward is ours."""

import importlib.util
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml
from released_files import CALL, conversation, make_root, response, said

from reverse_lib.environment import FULL
from reverse_lib.photos import Photo
from reverse_lib.reward import score
from reverse_lib.scale import ReleasedData, compute_score, export_verl, write_rl
from reverse_lib.scale.released import CACHES, IMAGE, RL, TEXT, ZOOM, ReleasedError
from reverse_lib.search import SearchCache, SearchResult
from reverse_lib.trajectory import TOOLS


@pytest.fixture
def root(tmp_path):
    return make_root(tmp_path / "data")


@pytest.fixture
def exported(tmp_path):
    with SearchCache.open(tmp_path / "cache", mode="w") as cache:
        cache.record_text("p/1.jpg", "Vigo", [SearchResult("t", "https://u.example", "", "s", True)])
        cache.record_image("p/1.jpg", [0, 0, 10, 20], [SearchResult("a", "b", "c")])
        photos = [Photo("p/1.jpg", None, 42.24, -8.72, "Spain", "Vigo"), Photo("p/2.jpg", None, 0.0, 0.0)]
        yield export_verl(tmp_path / "verl", photos, cache, split="val")


def test_exported_rows_have_exactly_the_released_schema(exported, tmp_path):
    rows = pq.read_table(exported["rl"])
    assert rows.schema.equals(RL) and rows.schema.names == RL.names
    row, second = rows.to_pylist()
    assert row["reward_model"] == {"ground_truth": "42.2400, -8.7200, Spain, Vigo", "style": "rule"}
    assert row["prompt"][0] == {"role": "system", "content": FULL.system_prompt}
    assert row["prompt"][1] == {"role": "user", "content": f"<image>\n{FULL.question}"}
    assert row["images"] == [{"image_url": "images/p/1.jpg"}] and row["agent_name"] == "tool_agent"
    info = row["extra_info"]
    assert (info["index"], info["split"], info["difficulty"], info["km"]) == (0, "val", "unknown", None)
    assert info["tools_kwargs"][TEXT] == {"create_kwargs": {"image": "images/p/1.jpg"}}
    assert second["reward_model"]["ground_truth"] == "0.0000, 0.0000, Unknown, Unknown"
    assert second["extra_info"]["index"] == 1
    for name, tool in (("image_cache", IMAGE), ("text_cache", TEXT)):
        table = pq.read_table(exported[name])
        assert table.schema.equals(CACHES[tool]) and table.num_rows == 1
    with pytest.raises(ReleasedError, match="x: its place is unknown"):
        write_rl(tmp_path / "no.parquet", [Photo("x", None)])
    assert not (tmp_path / "no.parquet").exists()


def test_the_tool_configuration_names_the_three_tools_and_their_parameters(exported):
    config = yaml.safe_load(exported["tools"].read_text())
    functions = {one["tool_schema"]["function"]["name"]: one for one in config["tools"]}
    assert list(functions) == list(TOOLS)
    parameters = {name: one["tool_schema"]["function"]["parameters"] for name, one in functions.items()}
    assert {name: list(one["properties"]) for name, one in parameters.items()} == {
        ZOOM: ["bbox_2d", "label"], IMAGE: ["bbox_2d", "goal"], TEXT: ["query"],
    }  # fmt: skip
    assert {name: one["required"] for name, one in parameters.items()} == {
        ZOOM: ["bbox_2d"], IMAGE: ["bbox_2d"], TEXT: ["query"],
    }  # fmt: skip
    for one in parameters.values():  # verl reads a single type and a description
        assert all(isinstance(each["type"], str) and each["description"] for each in one["properties"].values())
    assert functions[IMAGE]["config"]["cache_path"] == str(exported["image_cache"])
    assert functions[IMAGE]["config"]["iou_threshold"] == 0.7 and functions[TEXT]["config"]["n_pos_limit"] == 3
    assert functions[TEXT]["class_name"] == "verl.tools.text_search_tool.TextSearchTool"


def loaded_as_verl_does(path):
    spec = importlib.util.spec_from_file_location("custom_module", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_module"] = module
    spec.loader.exec_module(module)
    return module.compute_score


def solution(*more, template="\nuser\n{}\nassistant\n", **settings):
    """The text that verl decodes: what followed the prompt, with what is left of the chat template."""
    return "".join(
        message["content"] if message["role"] == "assistant" else template.format(message["content"])
        for message in conversation(*more, **settings)[2:]
    )


TRUTH = "39.2150, 9.1100, Italy, Cagliari"
TAGGED = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template", ["\nuser\n{}\nassistant\n", TAGGED])
def test_the_exported_reward_is_ours(exported, root, template):
    compute = loaded_as_verl_does(exported["reward"])
    (trajectory, _) = ReleasedData(root).sft()
    trajectory.lat, trajectory.lon = 39.215, 9.11
    ours = score(trajectory)
    text = solution(template=template) + ("<|im_end|>" if template == TAGGED else "")
    found = compute(data_source="coldstart", solution_str=text, ground_truth=TRUTH, extra_info=None)
    assert (found["accuracy"], found["format"]) == (ours.accuracy, ours.format) == (1.0, 1.0)
    assert found["score"] == pytest.approx(0.7) and found["process"] == 0.0 and found["answered"] == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>x</think><answer>Italy, Rome, 39.215, 9.11</answer>", (1.0, 1.0)),
        ("<think>x</think><answer>39.215, 9.11, Italy, Cagliari</answer>", (0.0, 0.0)),  # the order of the truth
        ("<answer>Italy, Rome, 39.215, 9.11</answer>", (1.0, 0.0)),
        ("<think>x</think> so <answer>Italy, Rome, 39.215, 9.11</answer>", (1.0, 0.8)),
        (solution().replace("<useful>[1]</useful>", ""), (1.0, 0.8)),
        (solution(answer="Italy, Cagliari, 39.215, 12.02"), (0.594, 1.0)),  # 250.7 km: just beyond the 200 km knot
        (solution(said("<answer>Italy, Rome, 1, 1</answer>")), (0.0, 0.0)),
        ("", (0.0, 0.0)),
        ("\nuser\n<tool_response>\nx\n</tool_response>\nassistant\n" * 3, (0.0, 0.0)),
        ("\n" * 300_000, (0.0, 0.0)),  # hours, were the time quadratic
        ("user\n<tool_response>" * 100_000, (0.0, 0.0)),
    ],
)
def test_the_exported_reward_of_known_texts(text, expected):
    found = compute_score("coldstart", text, TRUTH, {"index": 3}, reward_model=None)
    assert (found["accuracy"], found["format"]) == pytest.approx(expected, abs=0.03)
    assert found["score"] == pytest.approx(0.6 * found["accuracy"] + 0.1 * found["format"] + 0.3 * found["process"])


def test_calls_the_model_got_wrong_cost_and_a_failed_service_is_counted_and_no_nan():
    call = "<think>x</think>" + CALL.format(TEXT, '{"query": ""}')
    answer = "<think>y</think><answer>Italy, Rome, 39.215, 9.11</answer>"
    wrong = compute_score(
        "c", f"{call}\nuser\n{response('Error: query is empty')['content']}\nassistant\n{answer}", TRUTH
    )
    assert wrong["process"] == pytest.approx(-0.05) and wrong["format"] == 1.0
    text = f"{call}\nuser\n{response('Tavily search failed: no key')['content']}\nassistant\n{answer}"
    failed = compute_score("c", text, TRUTH)
    assert failed["service_error"] == 1.0 and failed["score"] == pytest.approx(0.7)
    with pytest.raises(ValueError, match="ground truth 'here'"):
        compute_score("c", answer, "here")


def test_the_reward_file_says_what_is_missing(exported, tmp_path):
    done = subprocess.run([sys.executable, "-I", exported["reward"]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "put the folder that holds reverse_lib on PYTHONPATH" in done.stderr
