"""What was found on a GPU as a page of Markdown, benchmarks/GPU.md."""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence

import torch

from .equality import Found

Times = Mapping[str, float]
Steps = Mapping[tuple[str, int, int], Times]

AIMS = (
    ("exact step of 50 agents, ν = 5, MLP 784-80-60-10", 2, "ms"),
    ("the default experiment", 1, "s"),
    ("round of 10 agents, CNN, images of 28×28", 50, "ms"),
)
"""What is aimed at on a card of a T4's class."""


def in_words(found: Found) -> str:
    """Return a comparison in a line.

    >>> in_words(Found("float64", "3e-05 apart", "more than 1e-10"))
    'DIFFERENT: float64: 3e-05 apart, more than 1e-10'
    """
    values = ", ".join(filter(None, [found.value, found.problem]))
    return f"{'DIFFERENT' if found.problem else 'equal'}: {found.name}: {values}"


def page(
    device: str, found: Sequence[Found], runs: Mapping[str, Times], rounds: Mapping[str, float], steps: Steps
) -> str:
    """Return all that was found; what was left out is said."""
    left_out = [each for each in found if each.value.startswith("left out")]
    wrong = [each for each in found if each.problem]
    compared = len(found) - len(left_out)
    lines = [
        f"## {torch.cuda.get_device_name() if device == 'cuda' else f'{device}, to try the program out'}",
        "",
        _circumstances(device),
        "",
        f"{compared - len(wrong)} of {compared} comparisons with the CPU came out equal.",
        *(f"- **{in_words(each)}**" for each in wrong),
        *(f"- {each.name}: {each.value}" for each in left_out),
        "",
        *_table(("aimed at", "at most", "measured", "met"), _aims(runs, rounds, steps)),
        "",
        "A local step of all agents, batches of 20 images of 28×28, ms as a CUDA graph (called one by one):",
        "",
        *_steps(steps),
        "",
        "Whole runs, seconds:",
        "",
        *_table(
            ("", *next(iter(runs.values()))),
            ((name, *(f"{seconds:.2f}" for seconds in times.values())) for name, times in runs.items()),
        ),
        "",
        "A round of 10 agents, 5 local steps, ν = 1: "
        + ", ".join(f"{model.upper()} {ms:.1f} ms" for model, ms in rounds.items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _circumstances(device: str) -> str:
    facts = [f"PyTorch {torch.__version__}", f"Python {platform.python_version()}", "float32 without TF32"]
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        facts = [
            f"{memory:.0f} GiB",
            f"compute capability {'.'.join(map(str, torch.cuda.get_device_capability()))}",
            *facts,
        ]
        facts.append(f"at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB used")
    return f"{', '.join(facts)}."


def _aims(runs: Mapping[str, Times], rounds: Mapping[str, float], steps: Steps) -> Iterable[Sequence[str]]:
    measured = steps.get(("mlp", 50, 5), {}).get("graph"), runs[AIMS[1][0]]["again"], rounds.get("cnn")
    for (what, most, unit), value in zip(AIMS, measured, strict=True):
        shown, met = (
            ("not measured", "") if value is None else (f"{value:.3g} {unit}", "yes" if value <= most else "no")
        )
        yield what, f"{most} {unit}", shown, met


def _steps(steps: Steps) -> Iterable[str]:
    nus = sorted({nu for _, _, nu in steps})

    def cell(kind: tuple[str, int, int]) -> str:
        times = {way: "no memory" if math.isinf(ms) else f"{ms:.2f}" for way, ms in steps.get(kind, {}).items()}
        compiled = f", compiled {times['compiled']}" if "compiled" in times else ""
        return f"{times['graph']} ({times['called']}{compiled})" if times else "not measured"

    rows = dict.fromkeys((model, n_agents) for model, n_agents, _ in steps)
    return _table(
        ("model", "agents", *(f"ν = {nu}" for nu in nus)),
        ((model.upper(), str(n), *(cell((model, n, nu)) for nu in nus)) for model, n in sorted(rows, reverse=False)),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
