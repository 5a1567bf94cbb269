"""Photos: one of them, as plain pixels; lists of them with their true places.

- `load_photo(path_or_bytes)`: RGB, upright, without metadata; raises `PhotoError`
- `Photo`: a photo and what is known about it
- `PhotoError`: a photo that can't be used, why, and what to do
- `crop(image, bbox_2d)`: a region at the picture's own resolution
- `data_url(image)`: a picture as text for a page or a server, without metadata
- `folder(path)`: somebody's own photos, listed in a CSV, as a `Listing`
- `load(benchmark, root)`: a public benchmark or a folder, as a `Listing`
- `Listing`: photos that can be used, and the rows that can't, each with line, kind and reason
- `PUBLISHED`: how many photos each benchmark was published with
"""

from reverse_lib.photos.listing import PUBLISHED, Listing, folder, load
from reverse_lib.photos.photo import Photo, PhotoError, crop, data_url, load_photo
