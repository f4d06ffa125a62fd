#!/usr/bin/env python3
"""Draws what size.py --json kept, as SVG: memory, restart and the cost of a registration by the number of instances.

  sizeplot.py size.json > docs/size.svg

Several lines for one number of instances are put together: each quantity is the median of those that have it.
"""
import json, math, statistics, sys

BLUE, LIGHT, GREY = "#2a6fdb", "#a9c4f0", "#8a8f98"

def read(paths):
    """{instances: {quantity: [...]}}, of quantities within quantities by a.b"""
    sizes = {}
    def put(into, prefix, d):
        for k, v in d.items():
            if isinstance(v, dict):
                put(into, prefix + k + ".", v)
            else:
                into.setdefault(prefix + k, []).append(v)
    for path in paths:
        for line in open(path):
            d = json.loads(line)
            put(sizes.setdefault(d["n"], {}), "", d)
    return {n: {k: statistics.median(v) for k, v in q.items()} for n, q in sorted(sizes.items())}

def label(n):
    return "{:,}".format(n)

def chart(out, x, title, sizes, curves, unit, limit=None, width=270, height=210):
    """Curves over the number of instances, both axes logarithmic."""
    out.append('<text x="%d" y="24" font-size="13" font-weight="bold">%s</text>' % (x, title))
    values = [v for c in curves for v in c[1].values()] + ([limit[1]] if limit else [])
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    top, left, right = 62, x + 34, x + width - 34
    px = lambda n: left + (math.log10(n) - 3) / 3 * (right - left)
    py = lambda v: top + height - (math.log10(v) - low) / (high - low) * height
    for e in range(low, high + 1):
        out.append('<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" font-size="10" text-anchor="end">%g</text>' % (left, py(10 ** e), right, left - 4, py(10 ** e) + 3, 10 ** e))
    for n in sizes:
        out.append('<text x="%.1f" y="%d" font-size="10" text-anchor="middle">%s</text>' % (px(n), top + height + 16, label(n)))
    if limit:
        out.append('<path d="M%d %.1fH%d" stroke="#c33" stroke-dasharray="4 3"/><text x="%d" y="%.1f" font-size="10" fill="#c33">%s</text>' % (left, py(limit[1]), right, left + 4, py(limit[1]) - 4, limit[0]))
    for k, (name, points, colour) in enumerate(curves):
        out.append('<path d="M%s" fill="none" stroke="%s" stroke-width="2"/>' % ("L".join("%.1f %.1f" % (px(n), py(v)) for n, v in points.items()), colour))
        for n, v in points.items():
            out.append('<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/><text x="%.1f" y="%.1f" font-size="10" text-anchor="middle">%.3g</text>' % (px(n), py(v), colour, px(n), py(v) + (15 if k else -7), v))
        out.append('<path d="M%d %dh14" stroke="%s" stroke-width="2"/><text x="%d" y="%d" font-size="11">%s</text>' % (x + 104 * k, 42, colour, x + 18 + 104 * k, 46, name))
    out.append('<text x="%d" y="%d" font-size="10" fill="#666">%s</text>' % (left, top + height + 30, unit))

def main():
    sizes = read(sys.argv[1:])
    of = lambda key, f=lambda d, v: v: {n: f(d, d[key]) for n, d in sizes.items() if d.get(key)}
    each = lambda d, v: (v - d.get("empty.rss", 13)) * 1024 / d["n"]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 310" font-family="sans-serif" fill="#222">', '<rect width="860" height="310" fill="#fff"/>']
    chart(out, 20, "Resident memory an instance", sizes, [("registered", of("after.rss", each), LIGHT), ("restarted", of("restarted_settled.rss", each), BLUE)],
          "KiB, over an empty server; by instances", ("1.2 KiB", 1.2))
    chart(out, 300, "Restart to ready", sizes, [("cold", of("ready_cold_s"), LIGHT), ("warm", of("ready_warm_s"), BLUE)], "seconds; by instances", ("10 s", 10))
    chart(out, 580, "CPU of a registration", sizes, [("of 64 clients", of("cost_us"), BLUE)], "µs, by HTTP, on disk; by instances")
    out.append("</svg>")
    print("\n".join(out))

if __name__ == "__main__":
    main()
