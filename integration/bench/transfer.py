#!/usr/bin/env python3
"""What a transfer of a large zone takes, and what it does to queries.

Starts roster with 10,000 instances in 1,000 services, times full transfers (AXFR),
and measures paced queries alone and while one transfer begins each second, in turn,
round after round; medians are printed. Everything stays on 127.0.0.1; the server is
stopped by pid.

  transfer.py --roster bin/roster
"""
import argparse, json, os, random, socket, statistics, struct, subprocess, tempfile, threading, time
import bench

def transfer(port):
    """One AXFR: seconds, records, octets."""
    begin = time.time()
    q = struct.pack(">6H", 1, 0, 1, 0, 0, 0) + bench.wire("service") + struct.pack(">2H", 252, 1)
    with socket.create_connection(("127.0.0.1", port), 10) as c:
        c.sendall(struct.pack(">H", len(q)) + q)
        f = c.makefile("rb", 1 << 20)
        records = octets = 0
        while True:
            size = struct.unpack(">H", f.read(2))[0]
            m = f.read(size)
            octets += 2 + size
            records += struct.unpack(">H", m[6:8])[0]
            assert m[3] & 15 == 0, "refused"
            if m.endswith(struct.pack(">4I", 30, 10, 300, 1)):  # the SOA again
                return time.time() - begin, records, octets

def measure(a):
    p = subprocess.run([a.dnsload, "-p", str(a.port), "-d", a.queries, "-l", str(a.secs), "-c", "8", "-w", "64", "-Q", str(a.rate), "-S"],
                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(p.stdout)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--roster", required=True, help="the binary")
    p.add_argument("--rate", type=float, default=20000, help="queries a second")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--secs", type=float, default=5)
    p.add_argument("--port", type=int, default=15600)
    a = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="dnsxfr.") as tmp:
        a.dnsload, a.queries = tmp + "/dnsload", tmp + "/q"
        subprocess.check_call(["cc", "-O2", "-o", a.dnsload, bench.HERE + "/dnsload.c"])
        inst = [dict(service="svc%04d" % (k // 10), id="i%05d" % k, host="10.%d.%d.%d" % (k >> 16, k >> 8 & 255, k & 255), port=8080) for k in range(10000)]
        rnd = random.Random(1)
        with open(a.queries, "w") as f:
            for k in range(100000):
                f.write("svc%04d.service. %s\n" % (rnd.randrange(1000), ["A", "SRV"][k % 2]))
        srv = subprocess.Popen([os.path.abspath(a.roster), "serve", "--dns", "127.0.0.1:%d" % a.port, "--http", "127.0.0.1:%d" % (a.port + 1),
                                "--store", "memory:", "--allow-transfer", "127.0.0.0/8"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            bench.wait_for(lambda: socket.create_connection(("127.0.0.1", a.port + 1), 1).close())
            bench.register(a.port + 1, inst, 8)
            times = [transfer(a.port) for _ in range(9)]
            print("# 10,000 instances: %d records, %.1f MB, %.2f s (%.2f to %.2f)" % (
                times[0][1], times[0][2] / 1e6, statistics.median(t[0] for t in times), min(t[0] for t in times), max(t[0] for t in times)))
            res = {"alone": [], "transfers": []}
            for _ in range(a.rounds):
                res["alone"].append(measure(a))
                done = threading.Event()
                n = [0]
                def work():
                    while not done.wait(1):
                        transfer(a.port)
                        n[0] += 1
                t = threading.Thread(target=work)
                t.start()
                res["transfers"].append(measure(a))
                done.set()
                t.join()
        finally:
            srv.terminate()
            srv.wait(15)
    print("| | answered/s | lost | average us | p50 us | p99 us |\n|---|" + "---:|" * 5)
    for name, list_ in res.items():
        m = lambda k: statistics.median(x[k] for x in list_)
        print("| %s | %.0f | %d | %.0f | %d | %d |" % (name, m("qps"), sum(x["lost"] for x in list_), m("lat_avg_us"), m("p50_us"), m("p99_us")))
    ratio = lambda k: statistics.median(y[k] / (x[k] or 1) for x, y in zip(res["alone"], res["transfers"]))
    print("| transfers / alone | %.2f | | %.2f | %.2f | %.2f |" % tuple(ratio(k) for k in ("qps", "lat_avg_us", "p50_us", "p99_us")))

if __name__ == "__main__":
    main()
