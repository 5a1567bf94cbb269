"""The house: rooms are entered by their doors, in the order data flows; see README's layout."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "reverse_lib"
EVERYBODY = {"profiles", "geo"}
MAY_USE = {  # besides profiles and geo
    "profiles": set(),
    "geo": set(),
    "trajectory": set(),
    "photos": set(),
    "search": {"photos", "trajectory"},
    "environment": {"photos", "search", "trajectory"},
    "reward": {"trajectory"},
    "models": {"environment", "photos", "trajectory"},
    "annotation": {"environment", "photos", "search", "trajectory"},
}
MAY_USE["training"] = {*MAY_USE, "reward", "models", "annotation"} - EVERYBODY
MAY_USE["evaluation"] = MAY_USE["training"] - {"annotation"}
MAY_USE["show"] = (MAY_USE["training"] | {"evaluation"}) - {"models"}
MAY_USE["scale"] = MAY_USE["training"] | {"training", "evaluation", "show"}
MAY_USE["world"] = MAY_USE["scale"] | {"scale"}
MAY_USE["runner"] = MAY_USE["__main__"] = MAY_USE["world"] | {"world", "runner"}


def room_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, str]]:
    """(module, name) of what is imported from the library."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "reverse_lib":
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "reverse_lib"]
    return found


def faults(tree: ast.AST, room: str, where: str) -> list[str]:
    """What a file in a room ("" for a notebook) imports that it should not."""
    wrong = []
    for module, name in imports(tree):
        parts = [*module.split(".")[1:], *([name] if module == "reverse_lib" else [])]
        other = parts[0] if parts else name
        if other == room:
            continue
        if len(parts) > 1 and parts != ["world", "base"]:
            wrong.append(f"{where}: {module} is inside a room; import {name} from reverse_lib.{other}")
        if name.startswith("_") and name != "__main__":
            wrong.append(f"{where}: {name} is private to {module}")
        if room and other not in MAY_USE[room] | EVERYBODY:
            wrong.append(f"{where}: {room} may not use {other}")
    return wrong


def test_rooms_are_entered_by_their_doors_and_in_their_order():
    wrong = []
    for path in sorted(LIBRARY.rglob("*.py")):
        wrong += faults(ast.parse(path.read_text()), room_of(path), str(path.relative_to(ROOT)))
    assert not wrong, "\n".join(wrong)


def test_notebooks_use_the_doors():
    wrong = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        wrong += faults(ast.parse(code), "", path.name)
    assert not wrong, "\n".join(wrong)


def test_a_name_has_one_door_and_a_door_names_nothing_of_another_room():
    homes: dict[str, str] = {}
    for door in sorted(LIBRARY.glob("*/__init__.py")):
        room = door.parent.name
        for module, name in imports(ast.parse(door.read_text())):
            assert module.startswith(f"reverse_lib.{room}."), f"{room} offers {name} of {module}"
            assert homes.setdefault(name, room) == room, f"{name}: offered by {homes[name]} and {room}"


@pytest.mark.parametrize(
    "planted", ["from reverse_lib.search.cache import SearchCache", "from reverse_lib import world"]
)
def test_the_check_sees_a_fault(planted):
    assert faults(ast.parse(planted), "reward", "planted")


def test_readmes_layout_is_the_rooms_in_the_order_data_flows():
    layout = (ROOT / "README.md").read_text().partition("## Layout")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in layout.splitlines() if line.startswith("| `")]
    assert [room.strip("` ") for row in rows for room in row.split(",")] == [
        *[room for room in MAY_USE if room not in ("__main__", "runner")],
        "__main__",
        "runner",
    ]
    there = {room_of(path) for path in LIBRARY.rglob("*.py")} - {"__init__"}
    assert there == set(MAY_USE)
