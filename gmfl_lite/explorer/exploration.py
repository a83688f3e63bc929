"""What `Explorer.run` gives a script: a result that shows itself as the panel would."""

from dataclasses import dataclass
from typing import Any

from ..plots.picture import Picture
from ..result import Result


@dataclass(frozen=True, eq=False, repr=False)
class Exploration(Result):
    """A Result that displays itself as the explorer's picture, with FedAvg's curve next to its own.

    Attributes
    ----------
    fedavg : the Result of ν = 0 on the same data from the same weights; None if that, or nothing, was completed.
    words : what is to be seen, in one sentence.
    picture : a Picture.
    """

    fedavg: Result | None
    words: str
    picture: Picture

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.picture._repr_mimebundle_()
