"""Whether progress bars are shown."""

import os


def progress_hidden(progress: bool) -> bool:
    """Say whether a bar is to be hidden; tqdm's notebook bar does not look at TQDM_DISABLE by itself."""
    return not progress or bool(os.environ.get("TQDM_DISABLE"))
