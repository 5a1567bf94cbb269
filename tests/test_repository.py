"""The repository as a stranger finds it: commands, notebooks, licence, and an import that costs nothing."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from reverse_lib.__main__ import main as program

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEST_LINE = "python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && .venv/bin/python -m pytest"
RUN_LINE = (
    "python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt && .venv/bin/python -m reverse_lib run"
)


def shell_lines(text: str) -> list[str]:
    """The lines of every fenced sh block."""
    return [line for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def test_readme_shows_the_two_lines_before_anything_longer_and_ci_runs_the_same_test_line():
    readme = (ROOT / "README.md").read_text()
    assert shell_lines(readme)[:2] == [RUN_LINE, TEST_LINE]
    assert TEST_LINE in (ROOT / ".ci" / "run").read_text().splitlines()
    assert readme.index(TEST_LINE) < 3000


def test_every_command_in_the_readme_is_one_the_program_takes(tmp_path, monkeypatch):
    lines = [line.partition("#")[0] for line in shell_lines((ROOT / "README.md").read_text())]
    lines += re.findall(r"`(\.venv/bin/python -m reverse_lib [^`]*)`", (ROOT / "README.md").read_text())
    commands = [line.split(" -m reverse_lib ")[1].split() for line in lines if " -m reverse_lib " in line]
    assert {"run", "geolocate", "evaluate", "bench"} == {command[0] for command in commands}
    for name in ("PHOTO", "my_photos", "im2gps3k"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for name, *arguments in commands:
        program.commands[name].make_context(name, arguments)  # raises where an option or a value is unknown


def test_ci_checks_style_and_stops_at_the_first_failure():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert ".venv/bin/ruff check" in script.splitlines() and ".venv/bin/ruff format --check" in script.splitlines()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, ".ci/run is not executable"
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_every_requirement_is_pinned_and_says_what_it_is_for():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    for line in lines:
        assert re.fullmatch(r"[\w-]+==[\w.]+ +# \S.*", line), line
    assert len(lines) == len({line.split("==")[0].lower() for line in lines})


def test_every_third_party_module_that_is_imported_is_required():
    required = {re.split(r"==", line)[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    names = {"PIL": "pillow", "IPython": "ipython", "branca": "folium", "bs4": "beautifulsoup4"}
    names |= {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}
    imported = set()
    for path in [*ROOT.glob("reverse_lib/**/*.py"), *ROOT.glob("tests/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            imported |= {module.split(".")[0] for module in modules}
    own = {"reverse_lib", *(path.stem for path in ROOT.glob("tests/*.py"))}
    foreign = {names.get(module, module).replace("_", "-") for module in imported - set(sys.stdlib_module_names) - own}
    assert foreign <= required, f"imported but not in requirements.txt: {sorted(foreign - required)}"


def test_importing_the_library_is_quick_and_only_three_rooms_bring_torch():
    light = "geo profiles trajectory photos search environment reward annotation evaluation show scale world runner"
    code = (
        "import sys, time; start = time.process_time(); import reverse_lib; took = time.process_time() - start;"
        f"assert took < 1, took; import {', '.join(f'reverse_lib.{room}' for room in light.split())};"
        "heavy = {'torch', 'transformers', 'trl'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_short_and_has_exactly_one_parameters_cell_of_literals(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for cell in cells:
        assert not cell.outputs and cell.execution_count is None, f"outputs below {cell.source[:60]!r}: run nbstripout"
        assert len(cell.source.splitlines()) <= 25, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 15, f"{node.name} belongs into reverse_lib"
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    literals = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(parameters.source).body}
    assert {"profile", "overrides"} <= set(literals)
