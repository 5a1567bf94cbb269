"""Pages with a picture like a region, by Google Cloud Vision: https://cloud.google.com/vision/docs/detecting-web"""

import base64
import io
from collections.abc import Sequence

from reverse_lib.search.live.backend import results_of, text_of
from reverse_lib.search.live.client import Service
from reverse_lib.search.results import SearchResult, ServiceError

MAX_SIDE_PX = 1024


class GoogleVision:
    """Pages for a region; its pixels go inline in the request and are put nowhere else. The key is GOOGLE_API_KEY.

    Args:
        base_url: Where the service is.
        max_results: Asked for.
        **limits: `per_minute`, `timeout_s`, `attempts`, `wait_s`, `connections`, as in `Service`.
    """

    def __init__(self, base_url: str = "https://vision.googleapis.com", max_results: int = 10, **limits):
        self.max_results = max_results
        self._service = Service("Google Vision", base_url, "GOOGLE_API_KEY", _header, **limits)

    def __call__(self, photo_id: str, bbox_2d: Sequence[float], crop) -> list[SearchResult]:
        """Pages in the service's order.

        Args:
            photo_id: Not sent.
            bbox_2d: Not sent.
            crop: The region as a PIL image.

        Raises:
            ServiceError: The service failed.
            ValueError: There is no cut-out.
        """
        if crop is None:
            raise ValueError(f"photo {photo_id}: an image search by Google Vision needs the cut-out region")
        feature = {"type": "WEB_DETECTION", "maxResults": self.max_results}
        request = {"image": {"content": _encoded(crop)}, "features": [feature]}
        answers = results_of(
            "Google Vision", self._service.post("/v1/images:annotate", {"requests": [request]}), "responses"
        )
        answer = answers[0] if answers else {}
        if "error" in answer:
            raise ServiceError("Google Vision: the service reports an error for this picture")
        detection = answer.get("webDetection") or {}
        if not isinstance(detection, dict):
            raise ServiceError("Google Vision: 'webDetection' of the answer is no object")
        pages = results_of("Google Vision", detection, "pagesWithMatchingImages")
        return [SearchResult(_plain(text_of(page, "pageTitle")), text_of(page, "url")) for page in pages]


def _encoded(crop) -> str:
    """The picture alone, as base64 JPEG of at most MAX_SIDE_PX; a new picture, so no metadata comes along."""
    shown = crop.convert("RGB")
    shown.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    clean = shown.copy()
    clean.info.clear()
    data = io.BytesIO()
    clean.save(data, "JPEG", quality=90)
    return base64.b64encode(data.getvalue()).decode()


def _plain(title: str) -> str:
    """A title without the service's bold marks."""
    return title.replace("<b>", "").replace("</b>", "")


def _header(key: str) -> dict[str, str]:
    return {"x-goog-api-key": key}
