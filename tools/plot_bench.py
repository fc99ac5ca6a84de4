#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what `neoxnative bench --json FILE` wrote: of engines beside the machine's limits, or of servers beside each other.

    python tools/plot_bench.py speed.json --out tools/pictures/speed.svg
    python tools/plot_bench.py neoxnative=ours.json llama_cpp.server=theirs.json --out tools/pictures/serving.svg

A name in front of a file is the one in the picture. pip install "neoxnative[plot]"
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = ["#2b7a74", "#dd7a45", "#6b6fa8", "#a8893f"]
LIMIT = "#c9c4b8"
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and sharp in any size
    "svg.hashsalt": "neoxnative",  # the same picture from the same numbers
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": "#3a362f",
    "axes.labelcolor": "#3a362f",
    "axes.edgecolor": "#8a857a",
    "xtick.color": "#6d675d",
    "ytick.color": "#6d675d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
}
PERCENTILES = ("p50", "p95", "p99")


def named(reports, key):
    return [(name, report[key]) for name, report in reports if report[key] is not None]


def labelled(axes, bars, digits):
    axes.margins(y=0.14)
    axes.bar_label(bars, fmt=lambda value: f"{value:,.{digits}f}", padding=2, fontsize=9)


def plot_servers(reports):
    """Throughput, and the percentiles of both times, a colour for each server."""
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.1), width_ratios=[1, 1.6, 1.6])
    names, colours = [name for name, _ in reports], COLOURS[: len(reports)]
    bars_of_all = panels[0].bar(names, [report["output_tokens_per_second"] for _, report in reports], 0.6, color=colours)
    labelled(panels[0], bars_of_all, 0)
    panels[0].set_xticks([])
    panels[0].set_title("new tokens/s")
    for axes, key, title, scale, unit in (
        (panels[1], "time_to_first_token", "time to first token", 1, "s"),
        (panels[2], "inter_token_latency", "time between tokens", 1e3, "ms"),
    ):
        shown = named(reports, key)
        width = 0.8 / max(len(shown), 1)
        for number, (name, spread) in enumerate(shown):
            places = [i + (number - (len(shown) - 1) / 2) * width for i in range(len(PERCENTILES))]
            bars = axes.bar(places, [spread[p] * scale for p in PERCENTILES], width * 0.92, color=COLOURS[names.index(name)])
            labelled(axes, bars, 1 if scale == 1 else 0)
        axes.set_xticks(range(len(PERCENTILES)), PERCENTILES)
        axes.set_title(f"{title}, {unit}")
    figure.legend(bars_of_all, names, loc="upper right", ncols=len(names), frameon=False, fontsize=9)
    first = reports[0][1]
    rate = "all at once" if first["request_rate"] is None else f"{first['request_rate']:g} a second"
    figure.suptitle(f"{first['requests']} requests, {rate}", x=0.01, ha="left", fontsize=10, color="#6d675d")
    return figure


def plot_engines(reports):
    """Prefill and decode of every batch and prompt, and behind each bar what the machine's limit would give."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.1))
    for axes, key, share, title in (
        (panels[0], "prefill_tokens_per_second", "prefill_share_of_matmul", "prefill, tokens/s; behind: the matrix product's limit"),
        (panels[1], "decode_tokens_per_second", "decode_share_of_read", "decode, tokens/s; behind: the limit of reading memory"),
    ):
        width = 0.8 / len(reports)
        for number, (name, report) in enumerate(reports):
            cells = report["cells"]
            places = [i + (number - (len(reports) - 1) / 2) * width for i in range(len(cells))]
            values = [cell[key]["median"] for cell in cells]
            axes.bar(places, [value / cell[share] for value, cell in zip(values, cells)], width * 0.92, color=LIMIT)
            bars = axes.bar(places, values, width * 0.62, color=COLOURS[number % len(COLOURS)], label=name)
            labelled(axes, bars, 0)
            axes.set_xticks(range(len(cells)), [f"{cell['batch']} × {cell['prompt']}" for cell in cells])
        axes.set_title(title)
        axes.set_xlabel("batch × prompt")
    if len(reports) > 1:
        panels[0].legend(frameon=False, fontsize=9)
    return figure


def read(argument):
    name, _, path = argument.rpartition("=")
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    return name or Path(path).stem, report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="[NAME=]FILE")
    parser.add_argument("--out", required=True, help="the picture, an svg")
    args = parser.parse_args()
    reports = [read(argument) for argument in args.reports]
    kinds = {"cells" in report for _, report in reports}
    if len(kinds) > 1:
        parser.error("some of the reports are of engines and some of servers: expected one kind")
    if len(reports) > len(COLOURS):
        parser.error(f"{len(reports)} reports, expected {len(COLOURS)} at most")
    with plt.rc_context(STYLE):
        figure = plot_engines(reports) if kinds == {True} else plot_servers(reports)
        figure.tight_layout()
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.out, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
