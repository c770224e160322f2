"""Types of the compiled module; `make lint` compares this file with the binary."""

import numpy as np
from numpy.typing import NDArray

__version__: str

class TempaError(Exception): ...

# rng.rs
def random_bits(seed: int, stream: int, start: int, count: int) -> NDArray[np.uint64]: ...
def random_uniform(seed: int, stream: int, start: int, count: int) -> NDArray[np.float64]: ...
