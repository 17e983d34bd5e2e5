"""A stand-in for torchvision, made of Pillow and torch: just what the two references' image code calls.

Meta's `llama_models.llama4.preprocess` and `chat_format`, and Hugging Face's `Llama4ImageProcessor`, import torchvision
at the top, and torchvision is a large package that the rest of this project has no use for. `install()` puts modules of
that name into `sys.modules`, and does nothing when the real package is there:

    from torchvision_stand_in import install
    install()
    from llama_models.llama4.preprocess import VariableSizeImageTransform
    from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor

What each function does is torchvision's documented behaviour:

- PIL images are resized by Pillow itself (antialiased, as Pillow always is): this is Meta's path, exact.
- uint8 tensors are resized by `torch.nn.functional.interpolate` in float32 and rounded (half to even) to uint8: this is
  Hugging Face's path. torchvision does that on processors without AVX2; with AVX2 it calls torch's uint8 kernel, at
  most one level of 255 away. So compare with Hugging Face within one level, on either.

Two side effects are contained here.

- transformers asks once whether torchvision exists and remembers the answer: `install()` clears that memory and, where
  transformers was imported before, gives its image modules the names they would have imported. Import the processor
  from its own module, as above: `transformers.Llama4ImageProcessor` may be a dummy that was made too early.
- Meta's `preprocess` sets `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` for the whole process, which would hide every
  "truncated image" error: `install()` imports it once and puts the flag back.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

VERSION = "0.26.0+stand.in"  # the first torchvision without video decoding, which the stand-in lacks as well


class InterpolationMode(Enum):
    """torchvision's names of the filters."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class ImageReadMode(Enum):
    """torchvision.io's names of the channel layouts."""

    UNCHANGED = "UNCHANGED"
    GRAY = "L"
    RGB = "RGB"


def resize(
    image: Image.Image | Tensor,
    size: Sequence[int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    max_size: None = None,
    antialias: bool = True,
) -> Image.Image | Tensor:
    """Resize to `size` = (height, width): a PIL image by Pillow, a tensor [..., C, height, width] by torch."""
    height, width = size
    if isinstance(image, Image.Image):
        return image.resize((width, height), Image.Resampling[interpolation.name])
    if tuple(image.shape[-2:]) == (height, width):
        return image
    if interpolation not in (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC):
        raise NotImplementedError(f"The stand-in resizes tensors with BILINEAR or BICUBIC only, not {interpolation}.")
    floats = image.reshape(-1, *image.shape[-3:]).to(torch.float32)
    floats = torch.nn.functional.interpolate(
        floats, size=(height, width), mode=interpolation.value, antialias=antialias
    )
    if not image.is_floating_point():
        floats = floats.clamp_(0, 255).round_()
    return floats.to(image.dtype).reshape(*image.shape[:-2], height, width)


def pad(
    image: Tensor, padding: Sequence[int], fill: float | Sequence[float] | None = 0, padding_mode: str = "constant"
) -> Tensor:
    """Pad a tensor [..., C, height, width] by (left, top, right, bottom) with one value, or one a channel."""
    if padding_mode != "constant":
        raise NotImplementedError(f"The stand-in pads with a constant only, not {padding_mode!r}.")
    left, top, right, bottom = padding
    channels, height, width = image.shape[-3:]
    values = torch.as_tensor(0 if fill is None else fill, dtype=image.dtype).expand(channels)[:, None, None]
    padded = values.expand(*image.shape[:-2], top + height + bottom, left + width + right).clone()
    padded[..., top : top + height, left : left + width] = image
    return padded


def normalize(image: Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> Tensor:
    """(image - mean) / std a channel, in the image's own dtype (bfloat16 for Hugging Face, float32 for Meta)."""
    if not image.is_floating_point():
        raise TypeError(f"normalize needs floating-point pixels, not {image.dtype}.")
    mean_C, std_C = (torch.as_tensor(value, dtype=image.dtype).reshape(-1, 1, 1) for value in (mean, std))
    return (image if inplace else image.clone()).sub_(mean_C).div_(std_C)


def pil_to_tensor(image: Image.Image) -> Tensor:
    """A PIL image as uint8 [C, height, width]."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).movedim(-1, 0).contiguous()


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image as float32 [C, height, width], 0 to 1."""
    return pil_to_tensor(image).to(torch.float32).div(255)


def grayscale_to_rgb(image: Tensor) -> Tensor:
    """Repeat a single channel three times."""
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Cut a rectangle out of a tensor [..., height, width]."""
    return image[..., top : top + height, left : left + width]


def to_dtype(image: Tensor, dtype: torch.dtype, scale: bool = False) -> Tensor:
    """Convert between uint8 (0 to 255) and floats (0 to 1 when `scale`)."""
    if not scale or image.is_floating_point() == dtype.is_floating_point:
        return image.to(dtype)
    if dtype.is_floating_point:
        return image.to(dtype) / 255
    return (image * (256 - 1e-3)).to(dtype)


def decode_image(
    source: str | Tensor, mode: ImageReadMode = ImageReadMode.UNCHANGED, apply_exif_orientation: bool = False
) -> Tensor:
    """Read a file, or the bytes of one held in a uint8 tensor, as uint8 [C, height, width]."""
    import io

    with Image.open(source if isinstance(source, str) else io.BytesIO(source.numpy().tobytes())) as image:
        upright = ImageOps.exif_transpose(image) if apply_exif_orientation else image
        return pil_to_tensor(upright if mode is ImageReadMode.UNCHANGED else upright.convert(mode.value))


class Compose:
    """Apply functions one after the other."""

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = transforms

    def __call__(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        for transform in self.transforms:
            image = transform(image)
        return image


class Resize:
    """`resize` to a fixed (height, width)."""

    def __init__(
        self, size: Sequence[int], interpolation: InterpolationMode = InterpolationMode.BILINEAR, antialias: bool = True
    ) -> None:
        self.size, self.interpolation, self.antialias = size, interpolation, antialias

    def __call__(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        return resize(image, self.size, self.interpolation, antialias=self.antialias)


class ToTensor:
    """`to_tensor` as an object."""

    def __call__(self, image: Image.Image) -> Tensor:
        return to_tensor(image)


class Normalize:
    """`normalize` with a fixed mean and standard deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace

    def __call__(self, image: Tensor) -> Tensor:
        return normalize(image, self.mean, self.std, self.inplace)


_FUNCTIONS = (resize, pad, normalize, pil_to_tensor, to_tensor, grayscale_to_rgb, crop, to_dtype, InterpolationMode)
_CLASSES = (Compose, Resize, ToTensor, Normalize, InterpolationMode)
_MODULES = {
    "torchvision": (),
    "torchvision.io": (ImageReadMode, decode_image),
    "torchvision.transforms": _CLASSES,
    "torchvision.transforms.functional": _FUNCTIONS,
    "torchvision.transforms.v2": _CLASSES,
    "torchvision.transforms.v2.functional": _FUNCTIONS,
}


def install() -> bool:
    """Make `import torchvision` work. True if the stand-in is in use, False if the real package is. Safe to repeat."""
    ours = "torchvision" in sys.modules and getattr(sys.modules["torchvision"], "__version__", None) == VERSION
    if not ours and importlib.util.find_spec("torchvision") is None:
        _add_modules()
        _tell_transformers()
        ours = True
    _import_meta_keeping_pillow_strict()
    return ours


def _add_modules() -> None:
    for name, members in _MODULES.items():
        module = ModuleType(name, __doc__)
        module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        module.__version__ = VERSION
        for member in members:
            setattr(module, member.__name__, member)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _tell_transformers() -> None:
    """Undo what transformers concluded at its import, if that came before: there is a torchvision now."""
    questions = sys.modules.get("transformers.utils.import_utils")
    for name in ("is_torchvision_available", "is_torchvision_v2_available", "is_torchvision_greater_or_equal"):
        if questions is not None and hasattr(getattr(questions, name, None), "cache_clear"):
            getattr(questions, name).cache_clear()

    images = sys.modules.get("transformers.image_utils")
    if images is not None and not images.pil_torch_interpolation_mapping:
        names = ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
        modes = {name: InterpolationMode[name] for name in names} | {"NEAREST": InterpolationMode.NEAREST_EXACT}
        images.InterpolationMode, images.pil_to_tensor = InterpolationMode, pil_to_tensor
        images.pil_torch_interpolation_mapping = {Image.Resampling[name]: mode for name, mode in modes.items()}
        images.torch_pil_interpolation_mapping = {mode: Image.Resampling[name] for name, mode in modes.items()}

    backends = sys.modules.get("transformers.image_processing_backends")
    if backends is not None and backends.pil_torch_interpolation_mapping is None:
        backends.tvF = sys.modules["torchvision.transforms.v2.functional"]
        backends.pil_torch_interpolation_mapping = images.pil_torch_interpolation_mapping
        backends.torch_pil_interpolation_mapping = images.torch_pil_interpolation_mapping

    for name in ("transformers.video_processing_utils", "transformers.video_utils"):
        if name in sys.modules:
            sys.modules[name].tvF = sys.modules["torchvision.transforms.v2.functional"]
            sys.modules[name].torchvision_io = sys.modules["torchvision.io"]


def _import_meta_keeping_pillow_strict() -> None:
    strict = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        importlib.import_module("llama_models.llama4.preprocess")
    except ModuleNotFoundError:
        pass  # the reference package is optional; tests that need it use pytest.importorskip
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = strict
