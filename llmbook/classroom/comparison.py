"""When an answer counts as equal to the expected one.

The function is also copied, as it stands, into the hidden tests of nbgrader and otter: it needs NumPy and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def same(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether an answer equals the expected one; numbers within ``tolerance``, absolute and relative.

    Text and truth values must be equal, lists and mappings equal in each item. An array may be given as nested lists
    or tuples of the same shape, a scalar as NumPy's or Python's. NaN is equal to NaN only. Whole numbers beyond the
    range of floats must be equal.
    """
    if isinstance(found, np.ndarray | np.generic) and found.ndim == 0:
        found = found.item()
    if isinstance(expected, np.ndarray | np.generic) and expected.ndim == 0:
        expected = expected.item()
    if expected is None or isinstance(expected, str):
        return type(found) is type(expected) and found == expected
    if isinstance(expected, bool):
        return isinstance(found, bool) and found == expected
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], expected[key], tolerance) for key in expected)
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(found, list | tuple | np.ndarray)
            and len(found) == len(expected)
            and all(same(one, other, tolerance) for one, other in zip(found, expected, strict=True))
        )
    try:
        if all(isinstance(x, int) for x in (found, expected)) and max(abs(found), abs(expected)) >= 2**63:
            return found == expected or abs(found - expected) <= tolerance + tolerance * abs(expected)
        found, expected = (float(x) if isinstance(x, int) and abs(x) >= 2**63 else x for x in (found, expected))
        given, wanted = np.asarray(found), np.asarray(expected)
    except (TypeError, ValueError, OverflowError):
        return False
    numbers = given.dtype.kind in "fiu" if wanted.dtype.kind in "fiu" else given.dtype.kind == wanted.dtype.kind
    if not numbers or given.shape != wanted.shape:
        return False
    if wanted.dtype.kind in "bUS":
        return bool((given == wanted).all())
    return bool(np.allclose(given, wanted, rtol=tolerance, atol=tolerance, equal_nan=True))
