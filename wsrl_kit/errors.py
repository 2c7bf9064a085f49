"""Errors. Each message is one sentence: which file or parameter, what was expected, what was found."""


class WSRLKitError(Exception):
    """An error that the user can cause and fix."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ParameterError(WSRLKitError):
    """A parameter has an unknown name, wrong type, or value out of range."""


class DataError(WSRLKitError):
    """Data are missing, damaged, unsafe, or do not fit."""


class NoTransitionsError(DataError):
    """An intact data file holds no transitions."""


class CheckpointError(WSRLKitError):
    """A checkpoint is missing, damaged, of another network, or can't be written."""


class ExperimentError(WSRLKitError):
    """An environment does not exist, or its package is not installed."""


class RunError(WSRLKitError):
    """A run's folder is missing, damaged, or another run's."""


class DivergenceError(WSRLKitError):
    """Learning has diverged; the last checkpoint is from before."""


class Stopped(WSRLKitError):
    """The user stopped the work; everything so far is kept."""


class RobotError(WSRLKitError):
    """A robot can't be reached, answers late or nonsensically, or is out of bounds."""
