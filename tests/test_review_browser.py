"""The panels as people meet them: JupyterLab in a headless Chromium, without a network."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import papermill
import psutil
import pytest
from browsing import chromium

from reverse_lib.annotation import read_review

ROOT = Path(__file__).parent.parent
PATIENCE_S = 120
MAKE = """\
from io import BytesIO
from PIL import Image
from reverse_lib.photos import Photo
from reverse_lib.trajectory import Observation, Step, Trajectory

picture = BytesIO()
Image.linear_gradient("L").resize((640, 480)).save(picture, "PNG")
photos = [Photo(f"p{i}", picture.getvalue()) for i in (1, 2)]
attack = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
results = [{"title": attack, "url": f"https://{i}.example", "useful": None} for i in (1, 2, 3)]
call = '<think>A sign.</think><tool_call>{"name": "text_search_tool", "arguments": {"query": "Vigo"}}</tool_call>'
last = f"<think>{'Long. ' * 1500}[2] fits.</think><useful>[2]</useful><answer>Spain, Vigo, 42.2, -8.7</answer>"
search = Observation("text_search_tool", {"query": "Vigo"}, "ok", "", results)
rows = [Trajectory(p.photo_id, [Step(call, search), Step(last)], regions=[[100, 200, 300, 400]]) for p in photos]
"""
SHOW = """\
from reverse_lib.show import ReviewPanel
ReviewPanel(rows, photos, "ann.jsonl", reviewer="ann")
"""
STEP = """\
from reverse_lib.environment import TINY
from reverse_lib.show import TrajectoryViewer
guess = Trajectory("p1", [Step("<think>Chile?</think><answer>Chile, Arica, -18.5, -70.3</answer>")])
TrajectoryViewer({"searched": rows[0], "guessed": guess}, photos[0].load(), TINY)
"""


VIEWER = ".jp-OutputArea-output:has(.reverse-tabs)"
ROWS = "() => [...document.querySelectorAll('.widget-hbox > .widget-checkbox')].map(e => e.parentElement.clientHeight)"
FITS = "() => (box => box.scrollWidth <= box.clientWidth)(document.querySelector('{}'))"


def wait_for(condition, what: str):
    """The first true value of `condition()`, asked again and again."""
    until = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < until, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a notebook that makes two trajectories and shows the panels."""
    folder = tmp_path_factory.mktemp("review")
    cells = [nbformat.v4.new_code_cell(source) for source in (MAKE, SHOW, STEP)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "review.ipynb")
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    """What processes are started with, so that Jupyter reads and writes below `folder` only."""
    names = "HOME IPYTHONDIR JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR"
    names += " JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR"
    own = {name: str(folder / "jupyter" / name.lower()) for name in names.split()}
    return own | {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1", "NO_PROXY": "*"}


@pytest.fixture(scope="module")
def lab(folder, environment):
    """The address of a JupyterLab, which ends with all its kernels."""
    quiet = Path(environment["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab/apputils-extension")
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    settings = [
        "ServerApp.ip=127.0.0.1",
        "ServerApp.port=0",
        "ServerApp.allow_root=True",
        f"ServerApp.root_dir={folder}",
        "IdentityProvider.token=secret",
        "LabApp.expose_app_in_browser=True",
        "LabApp.extension_manager=readonly",
    ]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", *(f"--{setting}" for setting in settings)]
    with open(folder / "server.log", "w") as log:
        output = {"stdout": log, "stderr": log, "start_new_session": True}
        server = psutil.Popen(command, cwd=folder, env=os.environ | environment, **output)
    try:
        runtime = Path(environment["JUPYTER_RUNTIME_DIR"])
        yield wait_for(lambda: server_address(server, runtime, folder / "server.log"), "JupyterLab to start")
    finally:
        end(server)


def server_address(server, runtime: Path, log: Path) -> str:
    """Where a server listens, "" before it does."""
    assert server.poll() is None, f"JupyterLab ended:\n{log.read_text()}"
    for file in runtime.glob("jpserver-*.json"):
        try:
            return json.loads(file.read_text())["url"]
        except ValueError:  # half written
            continue
    return ""


def end(server) -> None:
    """Ends a server and every process it started; what does not end when asked is killed."""
    if server.poll() is not None:
        return  # it never got as far as a kernel
    family = [*server.children(recursive=True), server]
    server.send_signal(signal.SIGTERM)
    psutil.wait_procs([server], timeout=10)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not psutil.wait_procs(family, timeout=10)[1]


@pytest.fixture
def open_notebook(lab):
    """A function: a fresh page with the notebook run; what it asked of another host is in `page.strangers`."""

    def open_():
        page = chromium().new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(PATIENCE_S * 1000)
        page.strangers = []
        page.route(lambda url: urlsplit(url).hostname != "127.0.0.1", lambda route: refuse(route, page.strangers))
        page.goto(f"{lab}lab/tree/review.ipynb?token=secret")
        kernel = "jupyterapp.shell.currentWidget?.context?.sessionContext?.session?.kernel"
        page.wait_for_function(f"() => window.jupyterapp && {kernel}?.status === 'idle'")
        page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
        return page

    return open_


def refuse(route, strangers: list[str]) -> None:
    strangers.append(route.request.url)
    route.abort()


def test_a_tick_in_the_browser_is_in_the_file_and_reopening_goes_on_from_there(open_notebook, folder):
    page = open_notebook()
    page.get_by_text("0 of 2 decided").wait_for()
    assert page.evaluate(FITS.format(".jp-OutputArea-output:has(.widget-checkbox)"))
    assert min(page.evaluate(ROWS)) >= 20  # px: no line is squeezed, however long the trajectory is
    page.get_by_role("checkbox", name="[2]").check()
    page.get_by_role("button", name="accept").click()
    page.get_by_text("1 of 2 decided").wait_for()
    (decision,) = read_review(folder / "ann.jsonl")
    assert (decision.photo_id, decision.reviewer, decision.verdict) == ("p1", "ann", "accept")
    assert decision.labels == {1: (False, True, False)}
    assert decision.boxes == {"region 1": [100, 200, 300, 400]}
    page.close()

    again = open_notebook()
    again.get_by_text("1 of 2 decided").wait_for()
    again.get_by_role("button", name="◀").click()
    again.get_by_text("p1: accepted").wait_for()
    assert [again.get_by_role("checkbox", name=f"[{i}]").is_checked() for i in (1, 2, 3)] == [False, True, False]
    assert again.evaluate("() => window.hacked") is None and page.strangers == again.strangers == []


def test_a_rollout_is_chosen_and_stepped_through_in_the_browser(open_notebook):
    page = open_notebook()
    viewer = page.locator(VIEWER)  # the review panel has sliders and turns of its own
    viewer.get_by_text("Turn 1 of 2").wait_for()
    assert [viewer.get_by_text(part).is_visible() for part in ("query: Vigo", "-8.7", "Arica")] == [True, False, False]
    viewer.get_by_role("radio", name="turn 2").check()
    viewer.get_by_text("Turn 2 of 2").wait_for()
    assert viewer.get_by_text("-8.7").is_visible() and not viewer.get_by_text("Turn 1 of 2").is_visible()
    viewer.get_by_role("radio", name="guessed").check()
    viewer.get_by_text("Turn 1 of 1").wait_for()
    assert viewer.get_by_text("Arica").is_visible() and page.evaluate(FITS.format(VIEWER))
    assert page.evaluate("() => window.hacked") is None and page.strangers == []
    page.close()


def test_an_executed_notebook_shows_every_turn_without_a_front_end(folder, environment, tmp_path, monkeypatch):
    for name, value in (environment | {"REVERSE_NO_FRONT_END": "1"}).items():
        monkeypatch.setenv(name, value)
    given, path = folder / "review.ipynb", tmp_path / "executed.ipynb"
    papermill.execute_notebook(given, path, cwd=tmp_path, progress_bar=False, execution_timeout=PATIENCE_S)
    (output,) = nbformat.read(path, as_version=4).cells[1].outputs
    assert set(output.data) == {"text/html", "text/plain"}  # no widget that nobody would draw
    page = chromium().new_page(viewport={"width": 1200, "height": 1000})
    page.set_content(output.data["text/html"])
    assert page.get_by_text("0 of 2 decided").is_visible() and page.get_by_text("Turn 2 of 2").count() == 2
    assert page.get_by_text("☐ [2]").count() == 2 and page.get_by_text("Spain, Vigo").count() == 2
    assert page.evaluate(FITS.format("html")) and page.evaluate("() => window.hacked") is None
    page.close()
