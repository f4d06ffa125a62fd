#!/usr/bin/env python3
"""What a busy registry costs DNS: the same paced queries with and without churn.

Starts roster on a bolt store, registers the data, puts the DNS threads and the
generator of queries on one CPU and everything else on another, so that HTTP gets one
CPU's worth and no more, and measures in turn, round after round: queries alone, and queries while 1,000 registrations that change
something and 20,000 single heartbeats a second come in over HTTP, each answered
before the next of its connection is counted. Quoted are the user time per query of
the DNS threads (named dns-udp) and the latency, medians of the rounds, and how much
churn made of each. Everything stays on 127.0.0.1; the server is stopped by pid.

  churn.py --roster bin/roster
  churn.py --roster bin/roster --data crowd     # 10,000 instances in one service
  churn.py --roster bin/roster --data services  # 100,000 services
  churn.py --roster bin/roster --data hot       # all registrations in one service
"""
import argparse, glob, json, os, random, re, socket, statistics, subprocess, tempfile, threading, time
import bench

def threads(pid):
    """User and system seconds of the DNS threads, and of the whole process."""
    u = s = 0
    for t in glob.glob("/proc/%d/task/*" % pid):
        try:
            if open(t + "/comm").read().strip() != "dns-udp":
                continue
            f = open(t + "/stat").read().rsplit(")", 1)[1].split()
            u, s = u + int(f[11]) / bench.TICK, s + int(f[12]) / bench.TICK
        except OSError:
            pass
    return u, s

def pin(pid, dns, rest):
    """The DNS threads on one CPU, all others, and ourselves, on another."""
    for t in glob.glob("/proc/%d/task/*" % pid):
        name = open(t + "/comm").read().strip()
        os.sched_setaffinity(int(os.path.basename(t)), {dns if name == "dns-udp" else rest})
    os.sched_setaffinity(0, {rest})

def data(kind):
    """The instances, the names that are asked for, and the services whose instances change."""
    inst = []
    def add(service, count):
        for j in range(count):
            i = len(inst)
            inst.append(dict(service=service, id="i%06d" % i, host="10.%d.%d.%d" % (i >> 16 & 255, i >> 8 & 255, i & 255), port=20000 + i % 40000))
    if kind == "services":
        for k in range(100000):
            add("svc%06d" % k, 1)
    else:
        for k in range(1000):
            add("svc%04d" % k, 10)
    if kind == "crowd":
        add("crowd", 10000)
    ask = sorted({i["service"] for i in inst})
    if kind == "crowd":
        ask = ["crowd"] * 200 + ask[1:801]  # a fifth of the queries
    hot = {"hot": ["svc0000"], "crowd": ["crowd"]}.get(kind, sorted({i["service"] for i in inst}))
    hot = set(hot)
    return inst, ask, [i for i in inst if i["service"] in hot]

class Churn:
    """Requests at a rate, pipelined on kept connections; how many were answered with 200."""
    def __init__(self, port, requests, rate, conns=4, batch=50):
        self.answered, self.bad, self.done = 0, 0, False
        self.ts = [threading.Thread(target=self.work, args=(port, requests[k::conns], rate / conns, batch)) for k in range(conns)]
        [t.start() for t in self.ts]
    def work(self, port, requests, rate, batch):
        c = socket.create_connection(("127.0.0.1", port))
        f = c.makefile("rb", 1 << 20)
        begin, n, at = time.time(), 0, 0
        batch = max(1, min(batch, int(rate / 50)))
        while not self.done:
            ahead = n / rate - (time.time() - begin)
            if ahead > 0:
                time.sleep(ahead)
            part = [requests[(at + k) % len(requests)](n + k) for k in range(batch)]
            at, n = at + batch, n + batch
            c.sendall(b"".join(part))
            for _ in part:
                status, size = f.readline(), 0
                while True:
                    line = f.readline()
                    if line == b"\r\n":
                        break
                    if line[:16].lower() == b"content-length: ":
                        size = int(line[16:])
                f.read(size)
                if status[9:12] == b"200":
                    self.answered += 1
                else:
                    self.bad += 1
    def stop(self):
        self.done = True
        [t.join() for t in self.ts]

def request(path, body=None):
    b = b"" if body is None else json.dumps(body).encode()
    return ("PUT %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (path, len(b))).encode() + b

def heartbeat(i):
    r = request("/v1/services/%(service)s/instances/%(id)s/heartbeat" % i)
    return lambda n: r

def change(i):
    path = "/v1/services/%(service)s/instances/%(id)s" % i
    return lambda n: request(path, dict(address=i["host"], port=i["port"], ttl=86400, meta={"n": str(n)}))

def measure(a, pid, port):
    p = subprocess.Popen(["taskset", "-c", str(a.cpu), a.dnsload, "-p", str(port), "-d", a.queries, "-l", str(a.secs), "-c", "8", "-w", "64", "-Q", str(a.rate), "-S"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if line.startswith("START"):
            u0, s0 = threads(pid)
        elif line.startswith("STOP"):
            u1, s1 = threads(pid)
    r = json.loads(p.stdout.read())
    p.wait()
    return dict(r, user=1e6 * (u1 - u0) / r["answered"], system=1e6 * (s1 - s0) / r["answered"])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--roster", required=True, help="the binary")
    p.add_argument("--data", default="reference", choices=["reference", "crowd", "services", "hot"])
    p.add_argument("--rate", type=float, default=20000, help="queries a second")
    p.add_argument("--registrations", type=float, default=1000, help="a second")
    p.add_argument("--heartbeats", type=float, default=20000, help="a second")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--secs", type=float, default=6)
    p.add_argument("--cpu", type=int, default=0, help="of the DNS threads and the generator of queries")
    p.add_argument("--httpcpu", type=int, default=1, help="of everything else")
    p.add_argument("--port", type=int, default=15500)
    a = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="dnschurn.") as tmp:
        a.dnsload, a.queries = tmp + "/dnsload", tmp + "/q"
        subprocess.check_call(["cc", "-O2", "-o", a.dnsload, bench.HERE + "/dnsload.c"])
        inst, ask, changing = data(a.data)
        rnd = random.Random(1)
        with open(a.queries, "w") as f:
            for k in range(100000):
                f.write("%s.service. %s\n" % (rnd.choice(ask), ["A", "SRV"][k % 2]))
        srv = subprocess.Popen([os.path.abspath(a.roster), "serve", "--dns", "127.0.0.1:%d" % a.port, "--http", "127.0.0.1:%d" % (a.port + 1),
                                "--store", "bolt:%s/roster.db" % tmp], stdout=subprocess.DEVNULL)
        try:
            bench.wait_for(lambda: socket.create_connection(("127.0.0.1", a.port + 1), 1).close())
            bench.register(a.port + 1, inst, 16)
            pin(srv.pid, a.cpu, a.httpcpu)
            beats = [heartbeat(i) for i in inst]
            changes = [change(i) for i in changing]
            rnd.shuffle(beats)
            res = {"alone": [], "churn": []}
            rates = []
            for _ in range(a.rounds):
                res["alone"].append(measure(a, srv.pid, a.port))
                churns = [Churn(a.port + 1, beats, a.heartbeats, conns=4), Churn(a.port + 1, changes, a.registrations, conns=8)]
                time.sleep(0.5)
                begin, n0 = time.time(), [c.answered for c in churns]
                res["churn"].append(measure(a, srv.pid, a.port))
                rates.append([(c.answered - n) / (time.time() - begin) for c, n in zip(churns, n0)])
                [c.stop() for c in churns]
                if any(c.bad for c in churns):
                    raise SystemExit("%s requests were refused" % [c.bad for c in churns])
        finally:
            srv.terminate()
            srv.wait(15)
    print("# %s data, %.0f queries a second; churn was %.0f heartbeats and %.0f registrations a second" % (
        a.data, a.rate, statistics.median(r[0] for r in rates), statistics.median(r[1] for r in rates)))
    print("| | answered/s | lost | user us/query | system us/query | p50 us | p99 us |\n|---|" + "---:|" * 6)
    for name, list_ in res.items():
        m = lambda k: statistics.median(x[k] for x in list_)
        print("| %s | %.0f | %d | %.2f | %.2f | %d | %d |" % (name, m("qps"), sum(x["lost"] for x in list_), m("user"), m("system"), m("p50_us"), m("p99_us")))
    ratio = lambda k: statistics.median(y[k] / (x[k] or 1) for x, y in zip(res["alone"], res["churn"]))
    print("| churn / alone | %.2f | | %.2f | %.2f | %.2f | %.2f |" % tuple(ratio(k) for k in ("qps", "user", "system", "p50_us", "p99_us")))

if __name__ == "__main__":
    main()
