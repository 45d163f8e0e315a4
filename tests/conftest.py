import numpy as np
import pytest

import causalcf as ccf


@pytest.fixture(scope="session")
def shipped() -> ccf.SCM:
    return ccf.load("morphomnist")


@pytest.fixture(scope="session")
def digits() -> ccf.Batch:
    """Six held-out real digits."""
    return ccf.recipe("morphomnist").batch("test", 6, 0, 1)


@pytest.fixture(scope="session")
def abducted(shipped: ccf.SCM, digits: ccf.Batch) -> ccf.Abduction:
    return ccf.abduct(shipped, digits)


def grey_levels(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())
