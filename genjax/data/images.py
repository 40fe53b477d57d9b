"""A folder of images as one array."""

from pathlib import Path

import numpy as np

from genjax.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
CHANNELS = {"1": "L", "L": "L", "RGB": "RGB", "RGBA": "RGBA", "P": "RGB", "LA": "RGBA", "PA": "RGBA", "CMYK": "RGB"}


def read_images(folder: Path) -> dict[str, np.ndarray]:
    """The images of a folder, in the order of their names.

    Args:
      folder: image files; or subfolders of them, each a class, numbered in the order of their names.
    Returns:
      `image` uint8 [N, H, W, C], C of 1, 3 or 4, and `label` int32 [N] where there are subfolders.  Colour pictures
      without transparency among others with it are opaque.
    Raises:
      BadInput: no images, images beside subfolders, a picture that cannot be read, sizes or channels that differ.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise BadInput(f"{folder} holds no images.", f"Allowed are files that end in {' '.join(SUFFIXES)}.")
    names = sorted({path.relative_to(folder).parts[0] for path in paths if path.parent != folder})
    beside = [path for path in paths if path.parent == folder]
    if names and beside:
        what = f"{folder} holds images ({beside[0].name}) beside subfolders of images ({names[0]})."
        raise BadInput(what, "Either all images are in it, or all are in subfolders, one a class.", "Move them.")
    first = read_image(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    for row, path in enumerate(paths):
        image = read_image(path)
        if {image.shape[2], images.shape[3]} == {3, 4}:  # a picture without transparency among others with it
            images, image = opaque(images), opaque(image)
        if image.shape != images.shape[1:]:
            what = f"{path} is {_size(image)}, {paths[0].name} is {_size(images[0])}."
            raise BadInput(what, "All images need the same size and channels.", "Resize or convert it, or remove it.")
        images[row] = image
    if not names:
        return {"image": images}
    labels = [names.index(path.relative_to(folder).parts[0]) for path in paths]
    return {"image": images, "label": np.array(labels, np.int32)}


def read_image(path: Path) -> np.ndarray:
    """One picture, uint8 [H, W, C]; raises BadInput that names its file."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                mode = CHANNELS.get(picture.mode)
                if mode == "RGB" and "transparency" in picture.info:  # of a palette, or one colour
                    mode = "RGBA"
                if mode is None:
                    raise ValueError(f"its mode {picture.mode} has more than 8 bits a channel")
                pixels = np.asarray(picture.convert(mode), np.uint8)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and struct.error, by what is broken
        what = f"{path} cannot be read as a picture: {error}"
        raise BadInput(what, "It is damaged, or not an 8-bit image.", "Repair, convert or remove it.") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def opaque(image: np.ndarray) -> np.ndarray:
    """Colour pictures [..., 3] with an alpha channel of 255; those that have one as they are."""
    if image.shape[-1] == 4:
        return image
    return np.concatenate([image, np.full((*image.shape[:-1], 1), 255, np.uint8)], axis=-1)


def _size(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width}x{height} with {channels} channels"
