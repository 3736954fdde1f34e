import numpy as np
import pytest

from jaxretr.attack.token.vocabulary import Vocabulary
from jaxretr.model.encode import Encoder
from tests.attack.token import cases


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return cases.words()


@pytest.fixture(scope="session")
def german(encoder: Encoder) -> np.ndarray:
    """The mask of the "German" words."""
    return Vocabulary.of(encoder).in_texts([" ".join(f"de{i}" for i in range(30))])
