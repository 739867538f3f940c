"""Pickles that hold nothing but numbers, text and NumPy arrays: a pickle may otherwise
run any program when read.
"""

from __future__ import annotations

import _codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from ..errors import UserError

# What Python 2 and 3 write for an array (NumPy 2 renamed numpy.core) and for its bytes.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _codecs.encode,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, which is not allowed"
            ) from None


def read_pickle(path: Path) -> Any:
    """The value of a pickle, with Python 2's text as bytes; `UserError` if it holds
    more than data, or is broken.
    """
    try:
        with path.open("rb") as file:
            return _Restricted(file, encoding="bytes").load()
    except (
        Exception
    ) as error:  # a garbled pickle fails in as many ways as it has opcodes
        raise UserError(
            f"cannot read {str(path)!r}: {error}; download it again from its official page"
        ) from error
