"""Errors; the message of each is one sentence: which file or parameter, what was expected, what was found."""


class WSRLKitError(Exception):
    """Base of all errors that a user can cause and mend."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ParameterError(WSRLKitError):
    """A parameter has an unknown name, a wrong type, or a value out of range."""


class DataError(WSRLKitError):
    """A data file or dataset is missing, damaged, unsafe, or does not fit."""


class NoTransitionsError(DataError):
    """A data file is whole and holds nothing."""


class CheckpointError(WSRLKitError):
    """A checkpoint is missing, damaged, of another network, or can't be written."""


class ExperimentError(WSRLKitError):
    """An experiment (environment) does not exist, or what it needs is not installed."""


class RunError(WSRLKitError):
    """A run's folder is missing, damaged, or belongs to another run."""


class DivergenceError(WSRLKitError):
    """Learning has diverged; the last checkpoint is from before."""


class Stopped(WSRLKitError):
    """The user stopped the work; everything up to here is kept."""


class RobotError(WSRLKitError):
    """A robot can't be reached, answers late or with nonsense, or is where it must not be."""
