"""Small pictures of photos as text that fits into a page, as large as a number of bytes allows."""

import base64
import io
from collections.abc import Callable, Sequence

from PIL import Image

from reverse_lib.photos import Photo, PhotoError

SIZES = ((256, 68), (200, 62), (160, 55), (120, 48), (96, 40))  # longer side in px, JPEG quality; best first
NOTE = 120  # characters of what is wrong with a photo
SAMPLE = 16  # photos that are measured before a size is chosen


def thumbnails(
    photos: Sequence[Photo], max_bytes: int, progress: Callable[[int], object] | None = None
) -> dict[str, dict]:
    """Pictures of all photos in the best of SIZES that fits, or of the first ones if not even the smallest does.

    Args:
        photos: In the order of their importance.
        max_bytes: Of all pictures together, as base64 text.
        progress: Called with 1 after each photo, such as `tqdm.update`.

    Returns:
        By photo id, image (base64 JPEG) and ratio (width over height), or a note on what is wrong with the photo;
        photos for which there was no room are left out.
    """
    size, quality = _affordable(photos, max_bytes)
    found: dict[str, dict] = {}
    for photo in photos:
        if max_bytes > 0:
            made = _thumbnail(photo, size, quality)
            max_bytes -= len(made.get("image", made.get("note", "")))
            if max_bytes >= 0:
                found[photo.photo_id] = made
        if progress is not None:
            progress(1)
    return found


def _affordable(photos: Sequence[Photo], max_bytes: int) -> tuple[int, int]:
    """The first of SIZES in which all photos should fit, judged by a sample; the last if none does."""
    sample = photos[:: max(1, len(photos) // SAMPLE)]
    for size, quality in SIZES[:-1]:
        mean = sum(len(_thumbnail(photo, size, quality).get("image", "")) for photo in sample) / len(sample)
        if 1.05 * mean * len(photos) <= max_bytes:
            return size, quality
    return SIZES[-1]


def _thumbnail(photo: Photo, size: int, quality: int) -> dict:
    try:
        small = photo.load().copy()
    except PhotoError as error:
        return {"note": f"{error}"[:NOTE]}
    ratio = small.width / small.height
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=quality, optimize=True)
    return {"image": base64.b64encode(data.getvalue()).decode(), "ratio": round(ratio, 3)}
