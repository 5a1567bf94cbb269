"""What a rollout of the RL stage acts in: the environment, with what training needs besides.

It remembers its finished rollout for the reward functions, tells how long its tools took, and shares opened photos and
drawn regions with the others of its step.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakValueDictionary

from PIL import Image

from reverse_lib.environment import GeoEnvironment
from reverse_lib.photos import Photo
from reverse_lib.profiles import Weights
from reverse_lib.reward import score
from reverse_lib.training.pace import Stopwatch
from reverse_lib.trajectory import parse_turn

PICTURES = 512  # photos and zooms to keep drawn


class TrainingEnvironment(GeoEnvironment):
    """The environment with a memory of its finished rollout, for the reward functions, and a watch on its tools.

    Environments that share `_opened` and `_pictures` open a photo, and draw a region, once: a group shares its photo,
    and often its boxes. Those of the next step are opened while this one is trained on (`_ahead`).
    """

    _weights = Weights()
    _clock = Stopwatch()
    _opened: WeakValueDictionary = WeakValueDictionary()  # photo id to pixels, while any rollout holds them
    _ahead: Mapping[str, Future] = {}  # photo id to pixels that are being opened
    _pictures: OrderedDict = OrderedDict()

    def reset(self, **row) -> list[dict]:
        with self._clock("tools"):
            return super().reset(**row)

    def _answer(self, method: Callable, given: Mapping, required: Mapping[str, bool]) -> str | list[dict]:
        with self._clock("tools"):
            return super()._answer(method, given, required)

    def _loaded(self) -> Image.Image:
        if self._image is None:
            self._image = self._opened.get(self._photo.photo_id)
        if self._image is None and self._photo.photo_id in self._ahead:
            self._image = self._ahead[self._photo.photo_id].result()
        self._opened[self._photo.photo_id] = super()._loaded()
        return self._image

    def _picture(self, show: Callable, *region) -> dict:
        key = (self._photo.photo_id, show.__name__, *(tuple(box) for box in region))
        if key not in self._pictures:
            self._pictures[key] = super()._picture(show, *region)
            while len(self._pictures) > PICTURES:
                self._pictures.popitem(last=False)
        return dict(self._pictures[key])

    def _unreadable(self, text: str) -> str:
        """The answer to a turn that can't be read, as a tool of TRL's; no part of the prompt."""
        return self._refuse(parse_turn(text))

    def _finish(self, texts: list[str]) -> None:
        """Assemble and score the rollout that wrote `texts`."""
        self._finished = self._trajectory(texts, agent="grpo")
        self._breakdown = score(self._finished, self._weights)


class Opener:
    """Opens photos in a thread of its own; `ahead` has those asked for last."""

    def __init__(self):
        self.ahead: dict[str, Future[Image.Image]] = {}
        self._pool = ThreadPoolExecutor(1)

    def open(self, photos: Iterable[Photo]) -> None:
        """Begin with these, and forget those asked for before."""
        self.ahead.clear()
        self.ahead.update({photo.photo_id: self._pool.submit(photo.load) for photo in photos})

    def close(self) -> None:
        """End the thread; what has not begun is not opened."""
        self._pool.shutdown(cancel_futures=True)
