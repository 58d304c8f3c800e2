"""What a block of work must see to so that it gives the same bits in this process and on any worker of a cluster."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array whose numbers lie on addresses that are multiples of their size: itself, or a copy.

    What came over the network lies where its message put it. Products and sums of such numbers take another path
    through numpy, past the linear algebra library, and differ in the last bit.
    """
    return np.require(values, requirements="A")
