"""Point spread functions: preparing a star and fitting models to it."""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Reals = NDArray[np.floating]
