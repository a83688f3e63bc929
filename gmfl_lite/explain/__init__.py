"""Pictures that move without a kernel: each shows itself as HTML, with a still picture and words.

Everything is reachable from here, as `gl.explain.<name>`. What moves is computed in the reader's browser, from numbers
of the library and by its formulas; nothing is loaded from elsewhere.
"""

from .adaptation import adaptation
from .landscape_player import landscape
from .one_round import one_round
from .picture import Picture

__all__ = ["Picture", "adaptation", "landscape", "one_round"]
