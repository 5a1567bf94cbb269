"""What a notebook works on: the miniature world's photos and its scripted teacher, or a user's own photos.

source = open_source(world, n=2000)                                          # the miniature world
source = open_source(world, "my_photos", "openai:MODEL", live=True)          # a folder with a CSV, any teacher
source.photos, source.skipped, source.teacher, source.search
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from reverse_lib.environment import TINY, Interface
from reverse_lib.photos import Listing, Photo, folder
from reverse_lib.search import SearchBackend
from reverse_lib.trajectory import TOOLS, Trajectory
from reverse_lib.world.teacher import ScriptedJudge, ScriptedTeacher, in_words


@dataclass(frozen=True)
class Source:
    """Photos, who annotates them, and what answers searches.

    Attributes:
        photos: To annotate.
        skipped: Rows of the user's list that can't be used: line, path, kind, reason.
        teacher: An agent, as `environment.rollout` takes it.
        judge: Labels what the teacher's reasoning leaves open; None where nobody can.
        search: Answers the teacher.
        spare: Further photos, for trajectories whose searches find nothing, or fail.
        in_words: Puts what the teacher thinks into words.
        notices: What a user should know, such as what is sent to whom.
        own: Whether these are a user's photos.
    """

    photos: list[Photo]
    skipped: pd.DataFrame
    teacher: Callable
    judge: Callable | None
    search: SearchBackend
    spare: Sequence[Photo]
    in_words: Callable[[str], str]
    notices: Sequence[str]
    own: bool

    @property
    def interface(self) -> Interface:
        """How things are shown to the teacher."""
        return getattr(self.teacher, "interface", TINY)

    @cached_property
    def _by_id(self) -> dict[str, Photo]:
        return {photo.photo_id: photo for photo in (*self.photos, *self.spare)}

    def photo(self, trajectory: Trajectory) -> Photo:
        """The photo of a trajectory."""
        return self._by_id[trajectory.photo_id]


def open_source(
    world, root: str = "", teacher: str = "", live: bool = False, n: int | None = None, seed: int = 0
) -> Source:
    """The miniature world, or a user's folder.

    Args:
        world: A `world.World`.
        root: A folder with photos and a CSV (path, lat, lon[, country, city]); "" takes the world's training photos.
        teacher: "openai:MODEL" for a server (see `models.Endpoint`), a checkpoint's folder or a model id; "" is the
            scripted teacher, which only knows the world.
        live: Whether searches go to the live services that have keys, instead of the miniature web.
        n: Photos at most; all of a folder, or 2,000 of the world, when None.
        seed: Of the scripted teacher and judge.

    Raises:
        ValueError: The folder has no list or no usable photo, a folder comes without a teacher, or a teacher or
            service can't be used; tells what to do.
    """
    notices: list[str] = []
    if root and not teacher:
        raise ValueError(f"{root}: the scripted teacher only knows the miniature world; name a teacher for your photos")
    if root:
        listing = folder(root, n=n)
        if not listing.photos:
            raise ValueError(f"{root}: none of its {listing.listed} listed photos can be used; see photos.folder")
        spare: Sequence[Photo] = listing.photos
    else:
        n = n or 2000
        listing = Listing(world.photos("train", n))
        spare = world.photos("train", n + n // 2 + 8)[n:]
    agent, judge, words = ScriptedTeacher(world, seed=seed), ScriptedJudge(seed), in_words
    if teacher:
        from reverse_lib import models

        agent = models.load_named(teacher, TOOLS, say=notices.append)
        judge = agent if hasattr(agent, "without_tools") else None
        words = in_words if agent.interface.name == "tiny" else str
    search = world.live
    if live:
        from reverse_lib.search import configured

        search, sentences = configured(TOOLS)
        notices += sentences
    return Source(listing.photos, listing.skipped, agent, judge, search, spare, words, notices, bool(root))
