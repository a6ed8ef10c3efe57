"""Profiles: where the time and the memory of training steps go, by layer, from the files of `./scripts/profile`."""

from collections.abc import Hashable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from impls.cnn.architecture import NETWORKS
from scripts.profiling import layers
from scripts.profiling.document import CALLS_FOLDER, FOLDER, CallProfile, Moment, Profile, file, file_of_call, trace_of
from scripts.profiling.layers import Layer, Place
from scripts.profiling.spans import OTHER
from scripts.report import drawing
from scripts.report.drawing import Figure
from scripts.report.section import Context, Section, rendered

NAME, TITLE = "profiles", "Where a step's time and memory go"
WIDTH, BAR_HEIGHT, EDGES = 10.6, 0.16, 1.6
PANEL_HEIGHT, ROOFLINE_HEIGHT, LEGEND_SHARE = 2.4, 6.0, 0.1
KINDS = ("state", "input", "saved", "gradients", "temporary")
# Of the kinds of memory, in the order of KINDS; in grey they differ in brightness.
SHADES = ("#009e73", "#999999", "#d55e00", "#f0e442", "#56b4e9")
# Operators with less than this share of a step are not listed.
LEAST_SHARE = 0.005


def section(context: Context) -> Section | None:
    """The section; None without profiles."""
    known = [profile for profile in context.profiles if profile.network in NETWORKS]
    if not known and not context.call_profiles:
        return None
    groups: dict[tuple[str, int], list[Profile]] = {}
    for profile in sorted(known, key=lambda each: (drawing.rank(each.framework), each.row)):
        groups.setdefault((profile.network, profile.batch), []).append(profile)
    figures = [figure for profiles in groups.values() for figure in _figures(profiles)]
    shares = _paired_shares(context)
    facts = [_facts(profile, shares.get(_key(profile))) for group in groups.values() for profile in _fastest(group)]
    calls = [_facts_of_call(profile) for profile in context.call_profiles]
    return rendered(NAME, TITLE, figures, profiles=facts, calls=calls)


def _figures(profiles: Sequence[Profile]) -> list[Figure]:
    """The figures of one network and batch: time and distance from the roofs of fastest rows, and memory of all."""
    fastest = _fastest(profiles)
    return [_side_by_side(fastest), _memory(profiles), _roofline(fastest)]


def _fastest(profiles: Sequence[Profile]) -> list[Profile]:
    """The row of each framework whose step took the least time."""
    found: dict[str, Profile] = {}
    for profile in profiles:
        before = found.setdefault(profile.framework, profile)
        if profile.unprofiled_ms < before.unprofiled_ms:
            found[profile.framework] = profile
    return list(found.values())


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


def _memory(profiles: Sequence[Profile]) -> Figure:
    """Draw the bytes alive in each layer, stacked by kind: a column for each flavour, fresh above in place."""
    network = NETWORKS[profiles[0].network]
    places = layers.places(network)
    flavours = list(dict.fromkeys(profile.row.rpartition(".")[0] for profile in profiles))
    modes = [mode for mode in drawing.MODES if any(profile.row.endswith(f".{mode}") for profile in profiles)]
    figure, ((top, *others), *axes) = plt.subplots(
        1 + len(modes), len(flavours), figsize=(WIDTH, PANEL_HEIGHT * len(modes) + EDGES), sharex=True, sharey=True,
        squeeze=False, height_ratios=[LEGEND_SHARE, *(1 for _ in modes)],
    )  # fmt: skip
    top.legend([Rectangle((0, 0), 1, 1, color=shade) for shade in SHADES], KINDS, loc="center left", ncol=len(KINDS))
    # The layout would widen the first column for it.
    top.get_legend().set_in_layout(False)
    for profile in profiles:
        flavour, _, mode = profile.row.rpartition(".")
        _stack(axes[modes.index(mode)][flavours.index(flavour)], profile, places)
    for axis in (top, *others, *(axis for row in axes for axis in row if not axis.has_data())):
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel("MB alive")
    title = f"{network.name}, batch {profiles[0].batch}: memory alive in each layer, by kind"
    return drawing.finished(figure, f"profile.{network.name}-{profiles[0].batch}-memory", title)


def _stack(axis: Axes, profile: Profile, places: Sequence[Place]) -> None:
    """Draw the bytes of a row, and a line at its peak. Layers that its program lacks are left out."""
    of_place: dict[Place, Moment] = {(moment.phase, moment.layer): moment for moment in profile.memory.moments}
    others = [moment for place, moment in of_place.items() if place not in places]
    shown = [of_place.get(place) for place in places]
    shown.append(max(others, key=lambda moment: moment.total_bytes, default=None))
    edges = np.arange(len(shown) + 1) - 0.5
    below = np.zeros(len(edges))
    for kind, shade in zip(KINDS, SHADES, strict=True):
        sizes_bytes = [getattr(moment, f"{kind}_bytes") if moment else 0 for moment in shown]
        above = below + np.array([*sizes_bytes, sizes_bytes[-1]]) / 1e6
        axis.fill_between(edges, below, above, step="post", color=shade, linewidth=0)
        below = above
    peak_mb = profile.memory.peak_bytes / 1e6
    axis.axhline(peak_mb, color=drawing.INK, linewidth=0.8, linestyle="--")
    axis.set_title(f"{profile.row}: {peak_mb:.1f} MB", parse_math=False)
    axis.set_xticks(range(len(shown)), [*(_label(place) for place in places), "between layers"], rotation=90)
    axis.grid(axis="x", visible=False)


def _roofline(profiles: Sequence[Profile]) -> Figure:
    """Draw the layers of the fastest rows in a roofline plot: GFLOP/s against operations per byte.

    Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
    architectures", 2009.
    """
    network = NETWORKS[profiles[0].network]
    figure, axis = plt.subplots(figsize=(WIDTH, ROOFLINE_HEIGHT))
    reached = []
    # The layers of all rows have the same intensity: one above the other they share a label.
    highest: dict[str, tuple[float, float]] = {}
    for profile in profiles:
        found = [layer for layer in layers.of_profile(profile, network) if layer.flops and layer.ms]
        for phase, marker in (("forward", "o"), ("backward", "D")):
            of_phase = [layer for layer in found if layer.phase == phase]
            label = f"{profile.row} {phase}"
            for layer in of_phase:
                name, intensity = _label((layer.phase, layer.layer)), layer.flops / layer.moved_bytes
                layer_gflop_per_s = layer.flops / layer.ms / 1e6
                axis.plot(
                    intensity, layer_gflop_per_s, color=drawing.colour(profile.framework), marker=marker, markersize=6,
                    linestyle="none", label=label, zorder=3,
                    gid=f"{drawing.TITLED}{profile.row}, {name}: {layer.ms:.3g} ms, {layer_gflop_per_s:.3g} GFLOP/s",
                )  # fmt: skip
                highest[name] = max(highest.get(name, (intensity, 0.0)), (intensity, layer_gflop_per_s))
                # One entry of the legend for all.
                label = "_"
        reached += [layer.flops / layer.moved_bytes for layer in found]
    # All rows of a run have the same roofs; of several runs the highest count.
    gflop_per_s = max(profile.roofs.gemm_gflop_per_s for profile in profiles)
    levels: dict[str, float] = {}
    for each in (each for profile in profiles for each in profile.roofs.bandwidths):
        levels[each.level] = max(each.gb_per_s, levels.get(each.level, 0.0))
    intensities = np.geomspace(min(reached) / 40, max(reached) * 2, 200)
    starts = {level: min(gflop_per_s, gb_per_s * intensities[0]) for level, gb_per_s in levels.items()}
    for gb_per_s in levels.values():
        axis.plot(intensities, np.minimum(gflop_per_s, gb_per_s * intensities), color=drawing.INK, linewidth=0.8)
    axis.annotate(
        f"matrix products {gflop_per_s:.0f} GFLOP/s", (intensities[0] / 10, gflop_per_s), xytext=(6, 4),
        textcoords="offset points", color=drawing.INK,
    )  # fmt: skip
    axis.set(xscale="log", xlabel="nominal operations per byte that a fused layer moves", ylabel="GFLOP/s")
    axis.set_xlim(intensities[0] / 10, intensities[-1])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    drawing.log_plain(axis)
    for level, height in drawing.apart(starts, axis).items():
        text = f"{level} {levels[level]:.0f} GB/s"
        drawing.label(axis, text, (intensities[0], starts[level]), (intensities[0] / 1.3, height))
    top = axis.get_ylim()[1]
    for name, place in drawing.apart({name: at[0] for name, at in highest.items()}, axis, "x").items():
        axis.plot(
            [highest[name][0], place], [highest[name][1], top], color=drawing.INK, alpha=0.4, linewidth=0.8, zorder=1
        )
        axis.annotate(
            name, (place, top), xytext=(0, 4), textcoords="offset points", color=drawing.INK, rotation=90, ha="center",
            va="bottom", parse_math=False,
        )  # fmt: skip
    axis.set_ylim(top=top)
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    title = f"{network.name}, batch {profiles[0].batch}: layers against the roofs"
    return drawing.finished(figure, f"profile.{network.name}-{profiles[0].batch}-roofline", title)


def _by_place(found: Sequence[Layer]) -> dict[Place, Layer]:
    return {(each.phase, each.layer): each for each in found}


def _ms(layer: Layer | None) -> float:
    return layer.ms if layer else 0.0


def _label(place: Place) -> str:
    phase, layer = place
    return layer if phase == layer else f"{phase} {layer}"


def _key(profile: Profile) -> tuple[str, str, int]:
    return profile.network, profile.row, profile.batch


def _paired_shares(context: Context) -> dict[tuple[str, str, int], dict[Hashable, Any]]:
    """The shares of ReLU that the benchmarks measured beside the network without it, by network, row and batch."""
    if context.steps.empty:
        return {}
    known = context.steps.dropna(subset=["relu_percent_low"])
    return {(row["network"], row["variant"], row["batch"]): row for row in known.to_dict("records")}


def _facts(profile: Profile, paired: dict[Hashable, Any] | None) -> dict[str, Any]:
    """The facts of a profile for the template. paired: the step as benchmarks measured it."""
    network = NETWORKS[profile.network]
    operators = sorted(profile.operators, key=lambda each: -each.ms)
    alone_ms, fused_ms = layers.activation_ms(profile)
    return {
        "profile": profile,
        "overhead_percent": 100 * (profile.step_ms / profile.unprofiled_ms - 1) if profile.unprofiled_ms else 0.0,
        "trace": f"{FOLDER}/{trace_of(file(profile.network, profile.row))}",
        "operators": [each for each in operators if each.ms >= LEAST_SHARE * profile.step_ms],
        "layers": [each for each in layers.of_profile(profile, network) if each.layer != OTHER],
        "to_gain": layers.most_to_gain(profile, network),
        "activation": network.activation,
        "alone_percent": 100 * alone_ms / profile.step_ms if profile.step_ms else 0.0,
        "fused_percent": 100 * fused_ms / profile.step_ms if profile.step_ms else 0.0,
        "paired": paired,
    }


def _facts_of_call(profile: CallProfile) -> dict[str, Any]:
    """The facts of a profile of calls for the template."""
    operators = sorted(profile.operators, key=lambda each: -each.ms)
    return {
        "profile": profile,
        "trace": f"{FOLDER}/{CALLS_FOLDER}/{trace_of(file_of_call(profile))}",
        "operators": [each for each in operators if each.ms >= LEAST_SHARE * profile.call_ms],
    }
