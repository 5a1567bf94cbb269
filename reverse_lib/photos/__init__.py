"""photos"""

from reverse_lib.photos.decoding import MAX_PIXELS, PhotoError, load_photo
from reverse_lib.photos.listing import PUBLISHED, Listing, folder, load
from reverse_lib.photos.photo import Photo, crop
