"""The tests check array shapes against their annotations, by themselves."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from wsrl_kit.analysis.statistics import bootstrap_interval
from wsrl_kit.data.trajectory import Trajectory


def test_a_call_with_another_shape_is_an_error() -> None:
    with pytest.raises(TypeCheckError, match="values"):
        bootstrap_interval(np.zeros((2, 2)))


def test_a_dataclass_with_another_kind_of_array_is_an_error() -> None:
    with pytest.raises(TypeCheckError, match="rewards"):
        Trajectory(
            observations=np.zeros((3, 2), np.float32),
            actions=np.zeros((2, 1), np.float32),
            rewards=np.zeros((2, 2), np.float32),
            terminated=True,
            truncated=False,
            success=None,
            source="demos",
        )
