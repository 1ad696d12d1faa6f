"""From the figures of all rounds to a table of ratios, JSON and bars."""

import html
import math
import statistics


class Results:
    """Figures by measure, peer and figure: one value for each time that all pairs were asked (a slot)."""

    def __init__(self):
        self.values = {}
        self.failures = []

    def add(self, measure, peer, figures, slot=0):
        for figure, value in figures.items():
            if value is not None:
                self.values.setdefault((measure, peer, figure), {})[slot] = value

    def of(self, measure, peer, figure):
        return list(self.values.get((measure, peer, figure), {}).values())

    def median(self, measure, peer, figure):
        values = self.of(measure, peer, figure)
        return statistics.median(values) if values else None

    def least(self, measure, peer, figure):
        return min(self.of(measure, peer, figure), default=None)

    def spread(self, measure, peer, figure):
        """Half of the interval in which the median lies, relative to the median."""
        return relative_spread(self.of(measure, peer, figure))

    def ratio(self, measure, peer, other, figure):
        """The ratio to another pair within each slot, in which the machine was the same for both; its median and spread."""
        mine, others = (self.values.get((measure, name, figure), {}) for name in (peer, other))
        ratios = [value / others[slot] for slot, value in mine.items() if others.get(slot, 0) > 0]
        return (statistics.median(ratios), relative_spread(ratios)) if ratios else (None, 0)

    def best_reference(self, measure, figure, peers, higher):
        """The best pair of others: the one to beat."""
        found = [(self.median(measure, peer.name, figure), peer.name) for peer in peers
                 if not peer.ours and not peer.is_direct]
        found = [entry for entry in found if entry[0] is not None]
        return (max if higher else min)(found, default=(None, None))


def interval(values):
    """Between which values the median lies in nine of ten cases, whatever the distribution: order statistics, whose ranks
    follow from a fair coin. Fewer than five values don't say so much, and give their whole range."""
    ordered, count = sorted(values), len(values)
    outside, rank = 0.0, 0
    while rank < count // 2:
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 0.1:
            break
        rank += 1
    cut = max(rank - 1, 0)
    return ordered[cut], ordered[count - 1 - cut]


def relative_spread(values):
    middle = statistics.median(values) if values else 0
    low, high = interval(values) if values else (0, 0)
    return abs((high - low) / 2 / middle) if middle else 0


def table(results, measures, peers):
    """One row for each measured figure: medians, spread, and the ratio to the best pair of others of the same sort."""
    lines = ["| | " + " | ".join(peer.name for peer in peers) + " |", "|---|" + "---|" * len(peers)]
    for measure in measures:
        if measure.run is None:
            continue
        for figure, unit in measure.figures.items():
            higher = figure in measure.higher
            cells = [_cell(results, measure.name, figure, peer, peers, higher) for peer in peers]
            if any(cell != "-" for cell in cells):
                lines.append(f"| {measure.title}: {figure} {unit} | " + " | ".join(cells) + " |")
            # What others do on the machine only ever adds to processor time.
            if figure == "cpu" and any(len(results.of(measure.name, peer.name, figure)) > 1 for peer in peers):
                cells = [_least(results, measure.name, figure, peer, peers) for peer in peers]
                lines.append(f"| {measure.title}: {figure} {unit}, least | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(results, measure, figure, peer, peers, higher):
    value = results.median(measure, peer.name, figure)
    if value is None:
        return "-"
    text = f"{short(value)} ±{results.spread(measure, peer.name, figure):.0%}"
    if peer.is_direct:
        return text
    _, best = results.best_reference(measure, figure, _same_sort(peer, peers), higher)
    ratio, spread = results.ratio(measure, peer.name, best, figure)
    return f"{text} **×{ratio:.2f}** ±{spread:.0%}" if ratio is not None else text


def _least(results, measure, figure, peer, peers):
    value = results.least(measure, peer.name, figure)
    if value is None:
        return "-"
    others = [results.least(measure, other.name, figure) for other in _same_sort(peer, peers)
              if not other.ours and not other.is_direct]
    best = min((other for other in others if other), default=None)
    return f"{short(value)} **×{value / best:.2f}**" if best and not peer.is_direct else short(value)


def _same_sort(peer, peers):
    return [other for other in peers if other.copies == peer.copies]


def short(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rests(memory, peers, wanted):
    """Memory, start and size, which are taken once for each pair."""
    lines = ["| | idle KiB, outbound + inbound | with idle connections, KiB | KiB per idle connection, both "
             "| ms to first answer | binary MB (stripped) |", "|---|---|---|---|---|---|"]
    short_of = []
    for peer in peers:
        taken = memory.get(peer.name)
        if not taken:
            continue
        stripped = f" ({taken['stripped_bytes'] / 1e6:.1f})" if taken["stripped_bytes"] else ""
        held = ", ".join(f"{count:,}: {resident[0]:,} + {resident[1]:,}"
                         for count, resident in taken["with_connections"].items())
        each = ", ".join(f"{count:,}: {kib:.1f}" for count, kib in taken["kib_per_connection"].items())
        lines.append(f"| {peer.name} | {taken['outbound_kib']:,} + {taken['inbound_kib']:,} | {held} | {each} | "
                     f"{taken['first_answer_ms']:.0f} | {taken['binary_bytes'] / 1e6:.1f}{stripped} |")
        if max(taken["with_connections"]) < wanted:
            short_of.append(f"{peer.name} was asked to hold {max(taken['with_connections']):,} of {wanted:,}: "
                            f"{peer.descriptors} descriptor{'s'[:peer.descriptors - 1]} each in a process are all that "
                            "this machine grants")
    return "\n".join([*lines, *("\n" + line + "." for line in short_of)])


def add_rests(results, memory):
    """The same as a measure, to be plotted beside the others."""
    for name, taken in memory.items():
        each = list(taken["kib_per_connection"].values())
        results.add("rest", name, {"idle": (taken["outbound_kib"] + taken["inbound_kib"]) / 1024, "first": each[0],
                                   "most": each[-1], "start": taken["first_answer_ms"]})


def to_json(results, measures):
    """The values of each figure by slot; null where a measurement failed."""

    def of(measure, peer):
        mine = {figure: values for (name, other, figure), values in results.values.items() if (name, other) == (measure, peer)}
        last = max((slot for values in mine.values() for slot in values), default=-1)
        return {figure: [values.get(slot) for slot in range(last + 1)] for figure, values in mine.items()}

    return {
        measure.name: {
            "title": measure.title,
            "units": measure.figures,
            "rounds": {peer: of(measure.name, peer)
                       for peer in dict.fromkeys(peer for name, peer, _ in results.values if name == measure.name)},
        }
        for measure in measures
    }


def plot(results, measure, peers):
    """One SVG: for each figure of a measure a bar for each pair, ours dark, with the spread as a line."""
    width, bar, gap, left = 900, 16, 46, 190
    parts, y = [], 20
    for figure, unit in measure.figures.items():
        bars = [(peer, results.median(measure.name, peer.name, figure)) for peer in peers]
        bars = [(peer, value) for peer, value in bars if value is not None]
        if not bars:
            continue
        better = "higher is better" if figure in measure.higher else "lower is better"
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{html.escape(measure.title)}: {figure}, {unit} '
                     f"({better})</text>")
        longest = max(max(value for _, value in bars), 1e-9)
        y += 10
        for peer, value in bars:
            # What a pair adds can come out below nothing where both are the same but for noise.
            length = (width - left - 120) * max(value, 0) / longest
            low, high = (left + (width - left - 120) * min(max(end, 0) / longest, 1.05)
                         for end in interval(results.of(measure.name, peer.name, figure)))
            fill = "#1b4f8a" if peer.ours else "#b8b8b8"
            parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{peer.name}</text>'
                         f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" fill="{fill}"/>'
                         f'<line x1="{low:.1f}" x2="{high:.1f}" '
                         f'y1="{y + 6}" y2="{y + 6}" stroke="black"/>'
                         f'<text x="{max(left + length, high) + 6:.1f}" y="{y + 12}">{short(value)}</text>')
            y += bar
        y += gap - bar
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')
