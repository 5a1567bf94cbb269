"""The few functions of torchvision that `AutoProcessor` calls for a picture, on top of torch, which works there too.

Not every CPU build of torch has a torchvision beside it; with this on the path, transformers builds the whole processor
of Qwen3-VL, video part included. Arguments mean what they mean in torchvision.
"""

import sys
from enum import Enum

import numpy as np
import torch

__version__ = "0.28.0"
transforms = v2 = functional = io = sys.modules[__name__]
for name in ("io", "transforms", "transforms.functional", "transforms.v2", "transforms.v2.functional"):
    sys.modules[f"{__name__}.{name}"] = sys.modules[__name__]


class InterpolationMode(Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def pil_to_tensor(picture):
    return torch.as_tensor(np.array(picture)).permute(2, 0, 1)


def grayscale_to_rgb(image):
    return image if image.shape[-3] == 3 else image.expand(*image.shape[:-3], 3, *image.shape[-2:])


def resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True):
    return torch.nn.functional.interpolate(image, size, mode=interpolation.value, antialias=antialias)


def normalize(image, mean, std, inplace=False):
    mean, std = (torch.as_tensor(x, dtype=image.dtype, device=image.device).view(-1, 1, 1) for x in (mean, std))
    return (image - mean) / std
