"""Why a run stops before its last step, where it is no accident."""


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """A signal asked for it. The steps that were done are whole, on all ranks."""


class Pruned(Interrupted):
    """The sweep that the run is a trial of has no hope for it."""


class NonFiniteError(Exception):
    """A loss or a gradient is no number any more. The step is not taken: the weights are those from before it."""
