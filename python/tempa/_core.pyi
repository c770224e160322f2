"""Types of the compiled module; `make lint` compares this file with the binary."""

import numpy as np
from numpy.typing import NDArray

__version__: str

class TempaError(Exception): ...

# rng.rs
def random_bits(seed: int, stream: int, start: int, count: int) -> NDArray[np.uint64]: ...
def random_uniform(seed: int, stream: int, start: int, count: int) -> NDArray[np.float64]: ...

# grade.rs
def extract_answer(text: str, how: str) -> str | None: ...
def answers_equal(a: str, b: str) -> bool: ...
def grade(texts: list[str], answers: list[str], how: str) -> NDArray[np.float32]: ...
def evaluate_arithmetic(expression: str) -> tuple[int, int]: ...

# scan.rs
def reward_to_go(
    rewards: NDArray[np.float32], offsets: NDArray[np.int64], gamma: float
) -> NDArray[np.float32]: ...
def gae(
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    offsets: NDArray[np.int64],
    gamma: float,
    lam: float,
    last_values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
