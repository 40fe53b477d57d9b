"""What a model drew and wrote through training: film strips, which the page's script gives a slider."""

import base64
from collections.abc import Sequence

from genjax.report.contents import Contents, Snapshot
from genjax.report.layout import byte_text, section
from genjax.report.markup import Html, element

MOST = 12  # snapshots of a picture on the page, fewer of large ones; the others stay in pictures/ and files/
HEAVY = 6 * 2**20  # bytes of the snapshots of one reel
READABLE = ("txt", "fasta", "csv", "tsv", "json", "md")
LONGEST = 20_000  # characters of a text on the page
IMAGES = {"svg": "image/svg+xml", "gif": "image/gif"}
SOUNDS = {"wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg"}


def reels(run: Contents) -> Html | None:
    """The pictures and files of a run, samples first; None where there are none."""
    first = lambda name: (name.partition(".")[0] != "samples", name)
    pictures = [_reel(name, "", run.pictures[name], run) for name in sorted(run.pictures, key=first)]
    files = [_reel(*_parts(name), run.files[name], run) for name in sorted(run.files, key=first)]
    shown = [
        element("div", *pictures, class_="reels") if pictures else None,
        element("div", *files, class_="reels wide") if files else None,
    ]
    return section("Samples through training" if files else "Pictures through training", *shown)


def _parts(name: str) -> tuple[str, str]:
    stem, _, suffix = name.rpartition(".")
    return stem, suffix


def _reel(stem: str, suffix: str, snapshots: Sequence[Snapshot], run: Contents) -> Html:
    """A film strip of one picture (without suffix) or file; what cannot be shown is a link to the last one."""
    shown = _chosen(snapshots) if suffix in ("", *IMAGES, *READABLE, *SOUNDS) else snapshots[-1:]
    stages = {row.get("stage_index"): str(row.get("stage")) for row in run.rows}
    several = len({s.stage_index for s in snapshots}) > 1
    frames = []
    for snapshot in shown:
        when = f"step {snapshot.step:,}"
        when += f" of {stages.get(snapshot.stage_index, snapshot.stage_index)}" if several else ""
        label = f"{_spaced(stem)} at {when}"
        frames.append(element("figure", _frame(suffix, snapshot, label), element("figcaption", when)))
    hint = "originals above" if "reconstruct" in stem else None
    left_out = f"{len(shown)} of {len(snapshots)} snapshots" if len(shown) < len(snapshots) else None
    about = " · ".join(part for part in (hint, left_out) if part)
    title = element("h3", _spaced(stem), element("small", about) if about else None)
    return element("div", title, element("div", *frames, class_="strip", tabindex=0), class_="reel")


def _chosen(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """At most MOST, spread evenly, the first and the last among them; fewer of large ones."""
    last = len(snapshots) - 1
    count = min(MOST, len(snapshots), max(2, HEAVY // max(1, *(len(snapshot.data) for snapshot in snapshots))))
    return [snapshots[round(i * last / max(count - 1, 1))] for i in range(count)] if last else list(snapshots)


def _frame(suffix: str, snapshot: Snapshot, label: str) -> Html:
    """One snapshot as the page shows it: a picture, a text, a sound, or a link."""
    data = base64.b64encode(snapshot.data).decode()
    if suffix == "":
        width, height = (int.from_bytes(snapshot.data[i : i + 4], "big") for i in (16, 20))
        return element("img", src=f"data:image/png;base64,{data}", alt=label, width=width, height=height)
    if suffix in IMAGES:
        return element("img", src=f"data:{IMAGES[suffix]};base64,{data}", alt=label)
    if suffix in SOUNDS:
        return element("audio", controls=True, src=f"data:{SOUNDS[suffix]};base64,{data}", aria_label=label)
    if suffix in READABLE:
        text = snapshot.data.decode("utf-8", errors="replace")
        more = f"\n... {len(text) - LONGEST:,} more characters in {snapshot.path}" if len(text) > LONGEST else ""
        return element("pre", element("code", text[:LONGEST] + more), tabindex=0)
    return element("p", element("a", snapshot.path, href=snapshot.path), f", {byte_text(len(snapshot.data))}")


def _spaced(name: str) -> str:
    return name.replace("_", " ")
