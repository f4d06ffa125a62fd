#!/usr/bin/env python3
"""Draws what bench.py printed, as SVG: answered queries a second, and CPU per query.

  bench.py --roster bin/roster > run1; ...; plot.py run1 run2 run3 > docs/benchmarks.svg

With several runs, each bar is the median, and a line on it goes from the smallest
to the largest.
"""
import re, statistics, sys

COLOURS = {"roster": "#2a6fdb", "nsd": "#8a8f98", "knot": "#b5b9c0", "bind": "#d5d8dd", "echo": "#f0b429"}
LABELS = {"roster": "roster", "nsd": "NSD", "knot": "Knot", "bind": "BIND", "echo": "echo (C)"}

def read(paths):
    """{work: {server: {"qps": [...], "cpu": [...]}}}"""
    works = {}
    for path in paths:
        work = None
        for line in open(path):
            m = re.match(r"## (\S+)", line)
            if m:
                work = works.setdefault(m.group(1), {})
            m = re.match(r"\| (\w+) \| (\d+) \| ([\d.]+) \|", line)
            if m and work is not None and m.group(1) in COLOURS:
                s = work.setdefault(m.group(1), {"qps": [], "cpu": []})
                s["qps"].append(float(m.group(2)) / 1000)
                s["cpu"].append(float(m.group(3)))
    return works

def chart(out, works, names, key, title, top, width=860, height=190):
    """One group of bars for each work."""
    most = max(max(s[key]) for n in names for s in works[n].values())
    scale = (height - 50) / most
    out.append('<text x="20" y="%d" font-size="14" font-weight="bold">%s</text>' % (top + 14, title))
    base, step = top + height - 18, (width - 40) / len(names)
    for k, name in enumerate(names):
        servers = [s for s in COLOURS if s in works[name]]
        bar = min(26, (step - 14) / len(servers))
        x0 = 20 + k * step + (step - bar * len(servers)) / 2
        for j, s in enumerate(servers):
            v = works[name][s][key]
            m, x = statistics.median(v), x0 + j * bar
            out.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>' % (x, base - m * scale, bar - 3, m * scale, COLOURS[s]))
            mid = x + (bar - 3) / 2
            out.append('<path d="M%.1f %.1fV%.1f" stroke="#333"/>' % (mid, base - min(v) * scale, base - max(v) * scale))
            out.append('<text x="%.1f" y="%.1f" font-size="9" text-anchor="middle">%s</text>' % (
                mid, base - max(v) * scale - 3, "%.0f" % m if m >= 10 else "%.1f" % m))
        out.append('<text x="%.1f" y="%d" font-size="11" text-anchor="middle">%s</text>' % (20 + (k + .5) * step, base + 14, name))
    out.append('<path d="M20 %dH%d" stroke="#999"/>' % (base, width - 20))

def main():
    works = read(sys.argv[1:])
    full = [w for w in works if "@" not in w]
    paced = [w for w in works if "@" in w]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 640" font-family="sans-serif" fill="#222">',
           '<rect width="860" height="640" fill="#fff"/>']
    for k, s in enumerate(COLOURS):
        out.append('<rect x="%d" y="10" width="12" height="12" fill="%s"/><text x="%d" y="20" font-size="12">%s</text>' % (20 + 100 * k, COLOURS[s], 37 + 100 * k, LABELS[s]))
    chart(out, works, full, "qps", "Answered at full load, thousand queries a second on one processor (more is better)", 40)
    chart(out, works, full, "cpu", "CPU per query at full load, µs (less is better)", 240)
    chart(out, works, paced, "cpu", "CPU per query at a given pace, queries a second, µs (less is better)", 440)
    out.append("</svg>")
    print("\n".join(out))

if __name__ == "__main__":
    main()
