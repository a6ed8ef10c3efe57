"""Profiles: where the time of training steps goes, layer by layer, where `./scripts/profile` has left its files."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from impls.cnn.architecture import NETWORKS
from scripts.profiling import layers
from scripts.profiling.document import FOLDER, Profile, trace_file
from scripts.profiling.layers import Layer, Place
from scripts.profiling.spans import OTHER
from scripts.report import drawing
from scripts.report.drawing import Figure
from scripts.report.section import Context, Section, rendered

NAME, TITLE = "profiles", "Where a step's time goes"
WIDTH, BAR_HEIGHT, EDGES = 10.6, 0.16, 1.6
# Operators with less than this share of a step are not listed.
LEAST_SHARE = 0.005


def section(context: Context) -> Section | None:
    """The section; None without profiles."""
    known = [profile for profile in context.profiles if profile.network in NETWORKS]
    if not known:
        return None
    groups: dict[tuple[str, int], list[Profile]] = {}
    for profile in sorted(known, key=lambda each: (drawing.rank(each.framework), each.row)):
        groups.setdefault((profile.network, profile.batch), []).append(profile)
    figures = [_side_by_side(profiles) for profiles in groups.values()]
    return rendered(NAME, TITLE, figures, profiles=[_facts(each) for group in groups.values() for each in group])


def _side_by_side(profiles: Sequence[Profile]) -> Figure:
    """Draw the milliseconds of each layer, a bar for each row. profiles: of one network and batch."""
    network = NETWORKS[profiles[0].network]
    found = {profile.row: _by_place(layers.of_profile(profile, network)) for profile in profiles}
    places = layers.places(network)
    labels = [*(_label(place) for place in places), "other operators", "not explained"]
    figure, axis = plt.subplots(figsize=(WIDTH, BAR_HEIGHT * (len(profiles) + 1) * len(labels) + EDGES))
    centres = np.arange(len(labels))
    height = 1 / (len(profiles) + 1)
    for number, profile in enumerate(profiles):
        of_row = found[profile.row]
        ms = [_ms(of_row.get(place)) for place in places]
        ms += [sum(layer.ms for place, layer in of_row.items() if place not in places), profile.unexplained_ms]
        offset = (number - (len(profiles) - 1) / 2) * height
        axis.barh(centres + offset, ms, height * 0.92, color=drawing.colour(profile.framework), label=profile.row)
    axis.set_yticks(centres, labels)
    axis.invert_yaxis()
    axis.set(xlabel="milliseconds per step")
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower right")
    sns.despine(ax=axis, left=True)
    title = f"{network.name}, batch {profiles[0].batch}: time of each layer"
    return drawing.finished(figure, f"profile.{network.name}-{profiles[0].batch}", title)


def _by_place(found: Sequence[Layer]) -> dict[Place, Layer]:
    return {(each.phase, each.layer): each for each in found}


def _ms(layer: Layer | None) -> float:
    return layer.ms if layer else 0.0


def _label(place: Place) -> str:
    phase, layer = place
    return layer if phase == layer else f"{phase} {layer}"


def _facts(profile: Profile) -> dict[str, Any]:
    """The facts of a profile for the template."""
    network = NETWORKS[profile.network]
    operators = sorted(profile.operators, key=lambda each: -each.ms)
    return {
        "profile": profile,
        "overhead_percent": 100 * (profile.step_ms / profile.unprofiled_ms - 1) if profile.unprofiled_ms else 0.0,
        "trace": f"{FOLDER}/{trace_file(profile.network, profile.row)}",
        "operators": [each for each in operators if each.ms >= LEAST_SHARE * profile.step_ms],
        "layers": [each for each in layers.of_profile(profile, network) if each.layer != OTHER],
        "to_gain": layers.most_to_gain(profile, network),
    }
