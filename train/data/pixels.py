"""Image files as gray or RGB pictures of 8 bits."""

from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any, BinaryIO

import numpy as np

# Gray values of 16 bits, in all orders of bytes.
_SIXTEEN_BITS = ('I;16', 'I;16B', 'I;16L', 'I;16N')
_GRAY = ('1', 'L', *_SIXTEEN_BITS)
# Palettes are colors in all but a few files.
_COLORS = ('P', 'RGB', 'RGBX', 'CMYK', 'YCbCr', 'HSV', 'LAB')
_TRANSPARENT = ('LA', 'La', 'PA', 'RGBA', 'RGBa')


def decode(file: BinaryIO | pathlib.Path, where: str) -> tuple[Any, list[str]]:
  """A picture in the orientation that its camera noted.

  Returns:
    A PIL image in mode 'L' or 'RGB', and what was changed: '16 bits scaled to
    8', 'transparency dropped'.

  Raises:
    ValueError: it is damaged, or cannot be gray or RGB of 8 bits. The message
      calls it `where`.
  """
  from PIL import Image, ImageOps

  with _named(where), Image.open(file) as opened:
    image = ImageOps.exif_transpose(opened)  # A copy, so all of it is decoded.
  changes = []
  if image.mode in _SIXTEEN_BITS:
    changes.append('16 bits scaled to 8')
    image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
  elif image.mode in _TRANSPARENT or 'transparency' in image.info:
    changes.append('transparency dropped')
  elif image.mode not in (*_GRAY, *_COLORS):
    raise ValueError(
      f'{where} must have 8 or 16 bits per channel, got mode {image.mode!r}:'
      ' convert it, or leave it out.'
    )
  is_gray = image.mode in (*_GRAY, 'LA', 'La')
  return image.convert('L' if is_gray else 'RGB'), changes


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
  """Errors of PIL, which raises many kinds, as a ValueError with a name."""
  try:
    yield
  except ImportError:
    raise
  except Exception as error:
    raise ValueError(
      f'{where} cannot be decoded as an image ({error}): mend it, or leave it'
      ' out.'
    ) from error
