"""Boxes on a photo to choose, move by sliders or by typing, and tick where they tell the place (ipywidgets)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import ipywidgets

from reverse_lib.geo import BoxError, as_box
from reverse_lib.show.style import PLAIN, RIGHT
from reverse_lib.show.viewer import line
from reverse_lib.trajectory import Trajectory

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_NEW = [400, 400, 600, 600]  # where a new box starts


def offered_boxes(trajectory: Trajectory) -> dict[str, list[int]]:
    """Boxes that may tell the place: the annotated regions ("region 1"), and those of calls ("turn 2")."""
    boxes = [(f"region {i}", box) for i, box in enumerate(trajectory.regions, start=1)]
    for number, step in enumerate(trajectory.steps, start=1):
        if step.observation is not None:
            boxes.append((f"turn {number}", step.observation.arguments.get("bbox_2d")))
    found = {}
    for name, box in boxes:
        try:
            found[name] = as_box(box)
        except BoxError:
            continue
    return found


class BoxEditor(ipywidgets.VBox):
    """Boxes by name; one is chosen and can be moved, any number is kept. What is moved is kept.

    Args:
        on_change: Called after a box was chosen, moved, added, kept or dropped.
    """

    def __init__(self, on_change: Callable[[], None]):
        self._on_change, self._filling = on_change, False
        self._boxes: dict[str, list[int]] = {}
        self._kept: set[str] = set()
        wide = {"width": "auto"}
        self.chooser = ipywidgets.Dropdown(description="box", layout={"flex": "1 1 0", "width": "auto"})
        self.keep = ipywidgets.Checkbox(description="tells the place", indent=False, layout={"width": "125px"})
        self.add = ipywidgets.Button(description="new box", layout={"width": "80px"})
        self.across = ipywidgets.IntRangeSlider(description="left–right", min=0, max=1000, layout=wide)
        self.down = ipywidgets.IntRangeSlider(description="top–bottom", min=0, max=1000, layout=wide)
        self.typed = ipywidgets.Text(description="x1 y1 x2 y2", continuous_update=False, layout=wide)
        self.message = ipywidgets.HTML()
        self.chooser.observe(self._on_choice, "value")
        self.keep.observe(self._on_keep, "value")
        self.across.observe(self._on_sliders, "value")
        self.down.observe(self._on_sliders, "value")
        self.typed.observe(self._on_typed, "value")
        self.add.on_click(self._on_add)
        head = ipywidgets.HBox([self.chooser, self.keep, self.add])
        super().__init__([head, self.across, self.down, self.typed, self.message])

    @property
    def kept(self) -> dict[str, list[int]]:
        """The boxes that tell the place, bbox_2d by name."""
        return {name: list(box) for name, box in self._boxes.items() if name in self._kept}

    def load(self, boxes: Mapping[str, Sequence[int]], kept: Iterable[str]) -> None:
        """Starts anew with other boxes; does not call `on_change`."""
        self._boxes, self._kept = {name: list(box) for name, box in boxes.items()}, set(kept)
        self._fill(next(iter([*self.kept, *self._boxes]), None))

    def drawn(self) -> list[tuple[list[int], str, str]]:
        """(bbox_2d, colour, label) of every box, kept ones in green, the chosen one on top."""
        names = sorted(self._boxes, key=lambda name: name == self.chooser.value)
        return [(self._boxes[name], RIGHT if name in self._kept else PLAIN, name) for name in names]

    def _fill(self, name: str | None) -> None:
        """Makes the widgets say what is known of the chosen box."""
        self._filling = True
        self.chooser.options, self.chooser.value = list(self._boxes), name
        x1, y1, x2, y2 = self._boxes.get(name, (0, 0, 1000, 1000))
        self.across.value, self.down.value = (x1, x2), (y1, y2)
        self.typed.value = f"{x1}, {y1}, {x2}, {y2}" if name else ""
        self.keep.value = name in self._kept
        for widget in (self.chooser, self.keep, self.across, self.down, self.typed):
            widget.disabled = name is None
        self.message.value = "" if name else line("", "no box yet")
        self._filling = False

    def _changed(self, name: str) -> None:
        self._fill(name)
        self._on_change()

    def _move(self, numbers: Sequence[float]) -> None:
        try:
            box = as_box(list(numbers))
        except BoxError as error:
            self.message.value = line("not moved:", str(error))
            return
        name = self.chooser.value
        self._boxes[name] = box
        self._kept.add(name)
        self._changed(name)

    def _on_choice(self, change) -> None:
        if not self._filling:
            self._changed(change["new"])

    def _on_keep(self, change) -> None:
        if not self._filling:
            (self._kept.add if change["new"] else self._kept.discard)(self.chooser.value)
            self._changed(self.chooser.value)

    def _on_sliders(self, _) -> None:
        if not self._filling:
            (x1, x2), (y1, y2) = self.across.value, self.down.value
            self._move([x1, y1, x2, y2])

    def _on_typed(self, change) -> None:
        if not self._filling:
            self._move([float(number) for number in _NUMBER.findall(change["new"])])

    def _on_add(self, _) -> None:
        name = f"new {1 + sum(name.startswith('new ') for name in self._boxes)}"
        self._boxes[name] = list(_NEW)
        self._kept.add(name)
        self._changed(name)
