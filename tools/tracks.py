"""Three ways through the notebooks: which notebook is on which, and how that is shown."""

from typing import NamedTuple


class Track(NamedTuple):
    """Notebooks to be read one after the other, and whom they are for."""

    aim: str
    notebooks: tuple[str, ...]


TRACKS = {
    "core": Track(
        "90 minutes, for everybody",
        (
            "00-start-here",
            "02-one-model-for-all",
            "03-the-meta-objective-by-hand",
            "05-when-nu-helps-and-when-it-hurts",
            "07-explorer",
        ),
    ),
    "deeper": Track(
        "a second lesson or homework",
        ("01-who-holds-what", "04-how-it-converges", "08-exercises", "12-few-shots"),
    ),
    "research": Track(
        "real data, real machines, and evidence",
        (
            "06-train-at-full-size",
            "09-evidence",
            "10-real-federation",
            "11-many-machines",
            "13-your-own-data",
        ),
    ),
}

MARK = "*Track: "
"""How the line begins that says where a notebook stands."""


def track_of(stem: str) -> str:
    """Return the name of a notebook's track.

    >>> track_of("04-how-it-converges")
    'deeper'
    """
    (name,) = (name for name, track in TRACKS.items() if stem in track.notebooks)
    return name


def line(stem: str) -> str:
    """Return what a notebook's first cell says about its track: the others are links.

    >>> line("12-few-shots")[-35:]
    '[08](08-exercises.ipynb) · **12**.*'
    """
    name = track_of(stem)
    track = TRACKS[name]
    stops = [f"**{one[:2]}**" if one == stem else f"[{one[:2]}]({one}.ipynb)" for one in track.notebooks]
    return f"{MARK}{name} ({track.aim}): {' · '.join(stops)}.*"


def table(titles: dict[str, str], seconds: dict[str, float]) -> str:
    """Return the tracks as a table for the teachers' page, from every notebook's title and time by its stem."""
    rows = []
    for name, track in TRACKS.items():
        listed = "; ".join(f"[{stem[:2]}]({stem}.ipynb) {titles[stem]}" for stem in track.notebooks)
        minutes = sum(seconds[stem] for stem in track.notebooks) / 60
        rows.append(f"| **{name}** | {track.aim} | {listed} | {minutes:.1f} min |")
    return "\n".join(["| track | for | notebooks | computing, in all |", "|---|---|---|---|", *rows])
