"""From the figures of all rounds to a table of ratios, JSON and bars."""

import html
import statistics


class Results:
    """Figures by measure, peer and figure: one value for each round."""

    def __init__(self):
        self.values = {}
        self.failures = []

    def add(self, measure, peer, figures):
        for figure, value in figures.items():
            if value is not None:
                self.values.setdefault((measure, peer, figure), []).append(value)

    def median(self, measure, peer, figure):
        values = self.values.get((measure, peer, figure))
        return statistics.median(values) if values else None

    def spread(self, measure, peer, figure):
        """Half of the distance between lowest and highest, relative to the median."""
        values = self.values[measure, peer, figure]
        middle = statistics.median(values)
        return (max(values) - min(values)) / 2 / middle if middle else 0

    def best_reference(self, measure, figure, peers, higher):
        """The best pair of others, of any sort: the one to beat."""
        found = [(self.median(measure, peer.name, figure), peer.name) for peer in peers
                 if not peer.ours and not peer.is_direct]
        found = [entry for entry in found if entry[0] is not None]
        return (max if higher else min)(found, default=(None, None))


def table(results, measures, peers):
    """One row for each measured figure: medians, spread, and the ratio to the best pair of others of the same sort."""
    lines = ["| | " + " | ".join(peer.name for peer in peers) + " |", "|---|" + "---|" * len(peers)]
    for measure in measures:
        for figure, unit in measure.figures.items():
            higher = figure in measure.higher
            cells = [_cell(results, measure.name, figure, peer, peers, higher) for peer in peers]
            if any(cell != "-" for cell in cells):
                lines.append(f"| {measure.title}: {figure} {unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(results, measure, figure, peer, peers, higher):
    value = results.median(measure, peer.name, figure)
    if value is None:
        return "-"
    text = f"{short(value)} ±{results.spread(measure, peer.name, figure):.0%}"
    if peer.is_direct:
        return text
    same_sort = [other for other in peers if other.copies == peer.copies]
    best, _ = results.best_reference(measure, figure, same_sort, higher)
    return f"{text} **×{value / best:.2f}**" if best and best > 0 else text


def short(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rests(memory, peers):
    """Memory, start and size, which are taken once for each pair."""
    lines = ["| | idle KiB, outbound + inbound | with idle connections | KiB per idle connection, both "
             "| ms to first answer | binary MB (stripped) |", "|---|---|---|---|---|---|"]
    for peer in peers:
        taken = memory.get(peer.name)
        if not taken:
            continue
        stripped = f" ({taken['stripped_bytes'] / 1e6:.1f})" if taken["stripped_bytes"] else ""
        held = ", ".join(f"{count:,}: {resident[0]:,} + {resident[1]:,}"
                         for count, resident in taken["with_connections"].items())
        lines.append(f"| {peer.name} | {taken['outbound_kib']:,} + {taken['inbound_kib']:,} | {held} | "
                     f"{taken['kib_per_connection']:.1f} | {taken['first_answer_ms']:.0f} | "
                     f"{taken['binary_bytes'] / 1e6:.1f}{stripped} |")
    return "\n".join(lines)


def to_json(results, measures):
    return {
        measure.name: {
            "title": measure.title,
            "units": measure.figures,
            "rounds": {
                peer: {figure: values for (name, other, figure), values in results.values.items()
                       if name == measure.name and other == peer}
                for peer in dict.fromkeys(peer for name, peer, _ in results.values if name == measure.name)
            },
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
            spread = abs(results.spread(measure.name, peer.name, figure)) * length
            fill = "#1b4f8a" if peer.ours else "#b8b8b8"
            parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{peer.name}</text>'
                         f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" fill="{fill}"/>'
                         f'<line x1="{left + length - spread:.1f}" x2="{left + length + spread:.1f}" '
                         f'y1="{y + 6}" y2="{y + 6}" stroke="black"/>'
                         f'<text x="{left + length + spread + 6:.1f}" y="{y + 12}">{short(value)}</text>')
            y += bar
        y += gap - bar
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')
