"""The pictures of a gallery: checked, made opaque, enlarged value by value, and ready to stand in a page.

A picture comes from evidence, which anybody may have written: whatever is not a small PNG is refused, and what is drawn
is written anew, so that nothing but its values reaches the page.
"""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Raster

#: A picture is enlarged by a whole number, to about so many values a side: 300 to the inch at the size of a tile.
_SIDE = 192
#: No picture of a record is larger; what claims to be would only fill the memory.
_MOST = 1024
_SCHEME = "data:image/png;base64,"
_GREY, _COLOUR, _CLEAR = ("1", "L"), ("RGB", "P"), ("LA", "RGBA")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a page shows it.

    Attributes:
        source: A data URI with an opaque PNG.
        words: What it shows, for those who do not see it.
    """

    source: str
    words: str


def picture(content: str, words: str) -> Picture:
    """A picture of the evidence, enlarged value by value.

    Args:
        content: A PNG in Base64, at most 1,024 values a side.
        words: What it shows.

    Raises:
        ValueError: It is something else.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        written = base64.b64decode(content, validate=True)
        Image.open(io.BytesIO(written), formats=("PNG",)).verify()  # WeasyPrint tells Pillow to bear with half a file
        found = Image.open(io.BytesIO(written), formats=("PNG",))
        if max(found.size) > _MOST:  # said by the header, before anything is unpacked
            raise ValueError(f"a picture of {found.size[0]} x {found.size[1]} values, expected at most {_MOST} a side")
        opaque = _opaque(found)
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a picture that is no PNG ({error})") from error
    return Picture(_SCHEME + base64.b64encode(_enlarged(opaque)).decode(), words)


def content_of(source: str) -> bytes | None:
    """The PNG in a data URI that `picture` wrote; `None` for every other address."""
    if not source.startswith(_SCHEME):
        return None
    try:
        return base64.b64decode(source.removeprefix(_SCHEME), validate=True)
    except binascii.Error:
        return None


def _opaque(found: Raster) -> Raster:
    """Grey or coloured, on white where it is transparent: PDF/A viewers and printers agree on nothing else."""
    from PIL import Image

    if found.mode in _GREY:
        return found.convert("L")
    if found.mode in _COLOUR and "transparency" not in found.info:
        return found.convert("RGB")
    if found.mode not in (*_COLOUR, *_CLEAR):
        raise ValueError(f"a picture of mode {found.mode}, expected one of {', '.join((*_GREY, *_COLOUR, *_CLEAR))}")
    clear = found.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _enlarged(opaque: Raster) -> bytes:
    from PIL import Image

    factor = max(1, _SIDE // max(opaque.size))
    size = (opaque.width * factor, opaque.height * factor)
    written = io.BytesIO()
    # Pasted onto a fresh picture: what else the file said (gamma, profiles, comments) stays behind.
    plain = Image.new(opaque.mode, size)
    plain.paste(opaque.resize(size, Image.Resampling.NEAREST))
    plain.save(written, "PNG")
    return written.getvalue()
