"""The page that a map lies in: Leaflet and the borders inside the file, so that it opens without a network.

Everything a map shows travels as JSON that `page.js` turns into text and shapes: nothing that a model or a web page
wrote is ever part of the page's HTML or script.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import folium
import numpy as np
from branca.element import Element, MacroElement
from folium.template import Template

from reverse_lib.show.maps.borders import borders_text

HERE = Path(__file__).parent
LIBRARIES = HERE.parents[2] / "data" / "leaflet"
HEAT_LIBRARY = Path(folium.__file__).parent / "templates" / "leaflet_heat.min.js"


class Verbatim(Element):
    """Text that goes into the page as it is; folium would read `{{` in it as a template."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text

    def render(self, **kwargs) -> str:
        return self.text


class Drawing(MacroElement):
    """A call of a function of `page.js` with the map, its layers and data, once the layers are there."""

    _template = Template("""{% macro script(this, kwargs) %}
        reverseMaps.{{ this.function }}({{ this._parent.get_name() }}, {
            {%- for key, layer in this.layers.items() %}{{ key }}: {{ layer }}, {% endfor -%}
        }, reverseMaps.read("{{ this.get_name() }}"));
    {% endmacro %}""")

    def __init__(self, map_: folium.Map, function: str, data: object, **layers: folium.FeatureGroup | Sequence):
        super().__init__()
        self.function = function
        self.layers = {
            key: layer.get_name() if isinstance(layer, Element) else f"[{', '.join(one.get_name() for one in layer)}]"
            for key, layer in layers.items()
        }
        _add_data(map_, self.get_name(), dumps(data))
        map_.add_child(self)


def new_map(tiles: str | None, points: Sequence[tuple[float, float]]) -> folium.Map:
    """A map of the world's countries, without anything on it.

    Args:
        tiles: None for land and borders alone, which lie in the file; or a folium tile name such as "OpenStreetMap"
            for a street map under the borders, which is fetched when the map is opened.
        points: What to zoom to, (lat, lon) in degrees, no closer than a country; the whole world if there are none.
    """
    options = {"minZoom": 1, "maxZoom": 12, "zoomSnap": 0.25}  # Leaflet's; folium's own go to a tile layer alone
    map_ = folium.Map((25, 10), zoom_start=2, tiles=None, prefer_canvas=True, **options)
    map_.default_js, map_.default_css = [], []
    if tiles is not None:
        folium.TileLayer(tiles, control=False).add_to(map_)
    map_.get_root().header.add_child(Verbatim(_libraries()))
    _add_data(map_, "borders", borders_text())
    array = np.array(points, float).reshape(-1, 2)
    bounds = [array.min(0).tolist(), array.max(0).tolist()] if len(array) else None
    Drawing(map_, "drawLand", {"filled": tiles is None, "bounds": bounds})
    return map_


def save_map(map_: folium.Map, path: str | Path) -> Path:
    """Write a map as one HTML file, making its folder; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    map_.save(str(path))
    return path


def dumps(data: object) -> str:
    """JSON that can stand inside a script element, whatever strings it holds; a lone surrogate becomes `?`."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8", "replace").decode()


def _add_data(map_: folium.Map, name: str, text: str) -> None:
    script = f'<script type="application/json" id="{name}">{text}</script>'
    map_.get_root().html.add_child(Verbatim(script), name=name)


@cache
def _libraries() -> str:
    """Style sheets and scripts as elements of the page's head."""
    sheets = [LIBRARIES / "leaflet.css", LIBRARIES / "MarkerCluster.css", HERE / "page.css"]
    scripts = [LIBRARIES / "leaflet.js", LIBRARIES / "leaflet.markercluster.js", HEAT_LIBRARY, HERE / "page.js"]
    missing = [path.name for path in (*sheets, *scripts) if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: missing; restore the repository's data/leaflet and requirements")
    texts = [f"<style>{path.read_text(encoding='utf-8')}</style>" for path in sheets]
    return "\n".join(texts + [f"<script>{path.read_text(encoding='utf-8')}</script>" for path in scripts])
