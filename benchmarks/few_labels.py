"""One table of what few labels are worth: every method on the same labelled examples, several choices of them.

    python benchmarks/few_labels.py --images digits --labels 100 --choices 5
    python benchmarks/few_labels.py fixmatch m2 --images mnist --labels 1000 --choices 1 --steps 3000

Each row is a `genjax sweep` over `choice`, which goes on where it stopped; then the test errors, the negative
log-likelihoods and the calibration errors of its finished runs are told as mean and standard deviation (n - 1) over the
choices.  Nothing is selected by test examples: the last update counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
METHODS = {  # the options of each experiment that make the method
    "supervised": ("semi_supervised.py", "--method", "supervised"),
    "pseudo_label": ("semi_supervised.py", "--method", "pseudo_label"),
    "mean_teacher": ("semi_supervised.py", "--method", "mean_teacher"),
    "fixmatch": ("semi_supervised.py", "--method", "fixmatch"),
    "m2": ("m2.py",),
    "jem": ("jem.py",),
    "feature_matching_gan": ("feature_matching_gan.py",),
    "ladder": ("ladder.py",),
}
MEASURES = ("error", "nll", "calibration")  # of test examples: %, nats, %


def main() -> None:
    """Sweep what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(METHODS)}; none: all")
    parser.add_argument("--images", default="digits", choices=("digits", "mnist", "fashion"))
    parser.add_argument("--labels", type=int, default=100, help="known, as many of each class; 0: all")
    parser.add_argument("--choices", type=int, default=5, help="how many draws of the labelled examples, from 1 on")
    parser.add_argument("--steps", type=int, help="of every run; default: each experiment's own")
    parser.add_argument("--workdir", type=Path, default=Path("runs/few_labels"))
    asked = parser.parse_args()
    unknown = [name for name in asked.methods if name not in METHODS]
    if unknown:
        parser.error(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    rows = {name: sweep(name, asked) for name in asked.methods or METHODS}
    print(table(rows))


def sweep(name: str, asked: argparse.Namespace) -> list[Path]:
    """Train a method on every choice of labels; the run directories."""
    file, *options = METHODS[name]
    steps = [] if asked.steps is None else ["--steps", str(asked.steps)]
    told = f"{name}-{asked.images}-{asked.labels}" + (f"-{asked.steps}" if steps else "")
    folder, last = asked.workdir / told, asked.choices + 1
    command = [sys.executable, "-m", "genjax", "sweep", str(ROOT / "experiments" / file), f"choice=1:{last}", *options]
    command += ["--images", asked.images, "--labels", str(asked.labels), *steps, "--workdir", str(folder)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return [folder / f"choice_{choice}" for choice in range(1, last)]


def table(rows: dict[str, Sequence[Path]]) -> str:
    """The methods as a table in Markdown, the fewest errors first.

    Args:
      rows: {method: its run directories, all finished}.
    """
    found = {name: [spread(runs, measure) for measure in MEASURES] for name, runs in rows.items()}
    lines = ["| method | error, % | -log P(label), nats | calibration error, % | choices |", "|---|---|---|---|---|"]
    for name in sorted(found, key=lambda name: found[name][0]):
        cells = [f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation else "") for mean, deviation in found[name]]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(rows[name])} |")
    return "\n".join(lines)


def spread(runs: Sequence[Path], measure: str) -> tuple[float, float]:
    """Mean and standard deviation over runs of a measure of test examples; of one run the deviation is 0."""
    told = [json.loads((run / "results.json").read_text(encoding="utf-8"))["results"] for run in runs]
    values = [next(line["value"] for line in lines if line["name"] == f"test/{measure}") for lines in told]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
