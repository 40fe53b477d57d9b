"""What a split must be before training sees it: checked once, on entry, so that the message names row and field."""

from collections.abc import Mapping

import numpy as np

from genjax.errors import BadInput


def check_arrays(arrays: Mapping[str, np.ndarray], where: str, classes: int | None, levels: int) -> None:
    """Checks one split.

    Args:
      arrays: field name -> [N, ...]. `image` is [N, H, W, C], `label` [N], `roll` [N, T, D] of 0 and 1, `tokens`
        [N, L], or [T] where they are one stream; other fields are numbers.
      where: how messages name it, such as `digits, split train`.
      classes: labels lie in [0, classes).
      levels: stored pixels, or tokens, lie in [0, levels); 0: real-valued.
    Raises:
      BadInput: naming the field, the first bad row and the value.
    """
    check_rows(arrays, where)
    for field, array in arrays.items():
        check_finite(array, field, where)
    if "image" in arrays:
        check_image(arrays["image"], where, levels)
    if "label" in arrays:
        check_integers(arrays["label"], "label", where, 1, classes)
    if "roll" in arrays:
        check_integers(arrays["roll"], "roll", where, 3, 2)
    if "tokens" in arrays:
        axes = 1 if arrays["tokens"].ndim == 1 else 2
        check_integers(arrays["tokens"], "tokens", where, axes, levels or None)


def check_rows(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Every field has the same number of rows, and at least one."""
    if not arrays:
        raise BadInput(f"{where}: there is no field.", "A split holds at least one array.", "Give it its arrays.")
    for field, array in arrays.items():
        if np.ndim(array) == 0 or len(array) == 0:
            what = f"{where}, field {field}: it is empty, of shape {np.shape(array)}."
            raise BadInput(what, "Every split needs at least one row.", "Give more rows, or other split fractions.")
    counts = {field: len(array) for field, array in arrays.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{field} {count}" for field, count in counts.items())
        raise BadInput(f"{where}: the row counts differ: {said}.", "All fields need the same number of rows.")


def check_finite(array: np.ndarray, field: str, where: str) -> None:
    """Numbers only, and no NaN or infinity."""
    if array.dtype.kind not in "buif":
        what = f"{where}, field {field}: its type {array.dtype} is not numeric."
        raise BadInput(what, "Allowed are booleans, integers and floats.", "Convert it to numbers first.")
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        row, place = first(bad)
        what = (
            f"{where}, field {field}: {array[place]} in row {row}, index {place[1:]}; {count_rows(bad)} rows have such."
        )
        raise BadInput(what, "All values must be finite.", "Remove or repair these rows.")


def check_image(image: np.ndarray, where: str, levels: int) -> None:
    """[N, H, W, C], one to four channels last, values inside the declared range."""
    if image.ndim != 4:
        what = f"{where}, field image: its shape {image.shape} has {image.ndim} axes."
        raise BadInput(what, "Images are [rows, height, width, channels].", "Reshape; grey images have 1 channel.")
    if image.shape[3] not in (1, 2, 3, 4):
        what = f"{where}, field image: its shape {image.shape} has {image.shape[3]} channels."
        hint = "It looks channels-first: use np.moveaxis(image, 1, 3)." if image.shape[1] <= 4 else "Reshape it."
        raise BadInput(what, "Images are [rows, height, width, channels] with 1 to 4 channels.", hint)
    if levels:
        check_integers(image, "image", where, 4, levels)
    elif image.min() < 0 or image.max() > 1:
        raise_outside(image, (image < 0) | (image > 1), "image", where, "[0, 1]")


def check_integers(array: np.ndarray, field: str, where: str, axes: int, limit: int | None) -> None:
    """Integers in [0, limit) on the given number of axes."""
    if array.dtype.kind not in "iu":
        what = f"{where}, field {field}: its type is {array.dtype}."
        raise BadInput(what, "Allowed are integers.", f"Convert: {field}.astype(np.int32).")
    if array.ndim != axes:
        raise BadInput(f"{where}, field {field}: its shape {array.shape} has {array.ndim} axes.", f"Allowed is {axes}.")
    if limit is None:
        if field == "label":
            raise BadInput(f"{where}: there is a field label, but classes is None.", "", "Give the number of classes.")
        return
    if array.min() < 0 or array.max() >= limit:
        raise_outside(array, (array < 0) | (array >= limit), field, where, f"0 .. {limit - 1}")


def raise_outside(array: np.ndarray, bad: np.ndarray, field: str, where: str, allowed: str) -> None:
    """Raises BadInput for the first value outside of the allowed range."""
    row, place = first(bad)
    what = f"{where}, field {field}: {array[place]} in row {row} is out of range; {count_rows(bad)} rows have such."
    raise BadInput(what, f"Allowed is {allowed}.", "Rescale or repair these rows, or declare the right range.")


def first(bad: np.ndarray) -> tuple[int, tuple[int, ...]]:
    """The row and the full index of the first True."""
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    return place[0], place


def count_rows(bad: np.ndarray) -> int:
    """How many rows hold a True."""
    return int(bad.reshape(len(bad), -1).any(axis=1).sum())
