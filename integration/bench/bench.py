#!/usr/bin/env python3
"""Side-by-side UDP DNS benchmark: queries/s and server CPU per answered query.

Starts roster, registers the reference instances through its API, prints the zone
from what its API lists, and gives NSD, Knot and BIND that zone, so that names and
answers are equal. Each server is pinned to one CPU and checked against the data;
then all are measured in turn, round after round, by a load generator pinned to
another CPU, and medians are printed. Everything stays on 127.0.0.1; servers are
stopped by pid.

  bench.py --roster bin/roster                     # with the Debian packages nsd knot bind9
  bench.py --roster bin/roster --suite heavy,light --add 'mine=/path/mine -p {port} -z {data}/zone.db'

An added server gets {port} {data} {dir} filled in. A suite is a list of WORK,
WORK/edns0 (without EDNS), WORK/tcp (kept TCP connections) and WORK@RATE (paced,
queries/s); WORK is heavy, light or nx.
"""
import argparse, glob, http.client, json, os, random, re, shutil, signal, socket, statistics
import struct, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
TICK = os.sysconf("SC_CLK_TCK")

# ---- configurations: files written into the server's directory, and the command ----
FILES = {
    "nsd": {"nsd.conf": """server:
  ip-address: 127.0.0.1@{port}
  server-count: {threads}
  username: ""
  chroot: ""
  zonesdir: "{dir}"
  database: ""
  pidfile: "{dir}/nsd.pid"
  xfrdfile: "{dir}/xfrd.state"
  zonelistfile: "{dir}/zone.list"
  xfrdir: "{dir}"
  logfile: "{dir}/nsd.log"
  round-robin: yes
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: service.
  zonefile: {data}/zone.db
"""},
    "knot": {"knot.conf": """server:
  rundir: {dir}
  listen: 127.0.0.1@{port}
  udp-workers: {threads}
  tcp-workers: 1
  background-workers: 1
  answer-rotation: on
database:
  storage: {dir}
log:
  - target: {dir}/knot.log
    any: warning
zone:
  - domain: service.
    file: {data}/zone.db
    zonefile-sync: -1
    journal-content: none
"""},
    "bind": {"named.conf": """options {{
  directory "{dir}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  pid-file "{dir}/named.pid"; session-keyfile "{dir}/session.key"; recursion no;
  minimal-responses no-auth; dnssec-validation no; querylog no; notify no;
}};
controls {{ }};
logging {{ category default {{ null; }}; }};
zone "service" {{ type primary; file "{data}/zone.db"; }};
"""},
}
CMDS = {
    "nsd": "{bin} -d -c {dir}/nsd.conf",
    "knot": "{bin} -c {dir}/knot.conf",
    "bind": "{bin} -f -n {threads} -U {threads} -c {dir}/named.conf",
    "echo": "{bin} {port}",
    "roster": "{bin} serve --dns 127.0.0.1:{port} --http 127.0.0.1:{http} --store memory:",
}
PATHS = {"nsd": "/usr/sbin/nsd", "knot": "/usr/sbin/knotd", "bind": "/usr/sbin/named"}

# ---- processes ----
def tree(pid):
    kids = {}
    for p in glob.glob("/proc/[0-9]*/stat"):
        try:
            s = open(p).read()
        except OSError:
            continue
        kids.setdefault(int(s.rsplit(")", 1)[1].split()[1]), []).append(int(s.split()[0]))
    out, todo = [], [pid]
    while todo:
        x = todo.pop()
        out.append(x)
        todo += kids.get(x, [])
    return out

def cpu_rss(pids):
    u = s = r = 0
    for p in pids:
        try:
            f = open("/proc/%d/stat" % p).read().rsplit(")", 1)[1].split()
            u, s = u + int(f[11]), s + int(f[12])
            r += int(re.search(r"Pss:\s+(\d+)", open("/proc/%d/smaps_rollup" % p).read()).group(1))
        except (OSError, AttributeError):
            pass
    return u / TICK, s / TICK, r / 1024

def busy():
    """CPU seconds used by everything on the machine."""
    f = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return (sum(f) - f[3] - f[4]) / TICK

def wait_quiet(a, pids=(), limit=300):
    """Wait until nothing but the given processes uses CPU."""
    end = time.time() + limit
    while time.time() < end:
        b, c = busy(), cpu_rss(pids)
        time.sleep(0.5)
        d = cpu_rss(pids)
        if (busy() - b - (d[0] + d[1] - c[0] - c[1])) / 0.5 < 2 * a.foreign + 0.05:
            return

class Server:
    def __init__(self, name, cmd, d, port, http, load=None, files={}, extra=(), env={}, **kw):
        self.name, self.port, self.http, self.extra, self.load = name, port, http, list(extra), load
        os.makedirs(d, exist_ok=True)
        v = dict(kw, dir=d, port=port, http=http)
        for n, t in files.items():
            open(os.path.join(d, n), "w").write(t.format(**v))
        cmd = ["taskset", "-c", str(kw["cpu"])] + cmd.format(**v).split()
        self.log = open(os.path.join(d, "stdio.log") if kw.get("keeplog") else "/dev/null", "w")
        self.p = subprocess.Popen(cmd, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
                                  env=dict(os.environ, **env), cwd=d, start_new_session=True)
    def pids(self):
        return [q for p in [self.p.pid] + [e.p.pid for e in self.extra] for q in tree(p)]
    def stop(self):
        ps = tree(self.p.pid)
        self.p.terminate()
        try:
            self.p.wait(5)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        for p in ps[1:]:  # children that did not go with it
            try:
                os.kill(p, signal.SIGKILL)
            except ProcessLookupError:
                pass

# ---- a small DNS client, for the check before the timing ----
def wire(name):
    return b"".join(bytes([len(l)]) + l.encode() for l in name.strip(".").split(".")) + b"\0"

def ask(port, name, qtype, edns=1232, timeout=1.0):
    i = random.randrange(65536)
    q = struct.pack(">6H", i, 0, 1, 0, 0, 1) + wire(name) + struct.pack(">2H", qtype, 1)
    q += b"\0" + struct.pack(">2HIH", 41, edns, 0, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(timeout)
        s.sendto(q, ("127.0.0.1", port))
        b = s.recv(65535)
    def nm(o):
        out, end = [], None
        while b[o]:
            if b[o] >= 192:
                end = end or o + 2
                o = (b[o] & 63) << 8 | b[o + 1]
            else:
                out.append(b[o + 1:o + 1 + b[o]].decode())
                o += 1 + b[o]
        return ".".join(out) + ".", end or o + 1
    rid, flags, qd, an, ns, ar = struct.unpack(">6H", b[:12])
    assert rid == i, "ID"
    o = 12
    for _ in range(qd):
        o = nm(o)[1] + 4
    secs = []
    for cnt in (an, ns, ar):
        rr = []
        for _ in range(cnt):
            n, o = nm(o)
            t, c, ttl, l = struct.unpack(">2HIH", b[o:o + 10])
            o += 10
            d = b[o:o + l]
            if t == 1:
                d = socket.inet_ntoa(d)
            elif t == 33:
                d = struct.unpack(">3H", d[:6]) + (nm(o + 6)[0],)
            rr.append((n, t, ttl, d))
            o += l
        secs.append(rr)
    return dict(size=len(b), rcode=flags & 15, tc=flags >> 9 & 1, aa=flags >> 10 & 1, secs=secs)

def check(srv, services, sample):
    """Every sampled service: the A set, the SRV port set, and the additional A set must be the data's."""
    sizes = {}
    for name in sample:
        inst = services[name]
        want = sorted(i["host"] for i in inst)
        a = ask(srv.port, name, 1)
        got = sorted(r[3] for r in a["secs"][0] if r[1] == 1)
        assert not a["tc"] and a["rcode"] == 0 and got == want, "%s A %s: %s" % (srv.name, name, a)
        s = ask(srv.port, name, 33)
        ports = sorted(r[3][2] for r in s["secs"][0] if r[1] == 33)
        add = sorted(r[3] for r in s["secs"][2] if r[1] == 1)
        assert not s["tc"] and s["rcode"] == 0 and ports == sorted(i["port"] for i in inst), "%s SRV %s: %s" % (srv.name, name, s)
        assert add == want, "%s additional of %s: %s" % (srv.name, name, s)
        tgt = {r[0].lower() for r in s["secs"][2] if r[1] == 1}
        assert {r[3][3].lower() for r in s["secs"][0]} == tgt, "%s: SRV targets without additional A" % srv.name
        k = len(inst)
        sizes["%dA" % k] = "%d(%s)" % (a["size"], "/".join(str(len(x)) for x in a["secs"]))
        sizes["%dSRV" % k] = "%d(%s)" % (s["size"], "/".join(str(len(x)) for x in s["secs"]))
    return sizes

# ---- the data: ours, by way of the API ----
def generate(d, heavy, per, light, queries):
    rnd = random.Random(1)
    inst = []
    for prefix, count in (("svc", heavy), ("lit", light)):
        for k in range(count):
            for j in range(per if prefix == "svc" else 1 + k % 3):
                i = len(inst)
                inst.append(dict(service="%s%04d" % (prefix, k), id="%s%04d-%02d" % (prefix[0], k, j),
                                 host="10.%d.%d.%d" % (i >> 16 & 255, i >> 8 & 255, i & 255), port=20000 + i % 40000))
    def write(name, prefix, count, types):
        with open("%s/%s.q" % (d, name), "w") as f:
            for k in range(queries):
                f.write("%s%04d.service. %s\n" % (prefix, rnd.randrange(count), types[k % len(types)]))
    write("heavy", "svc", heavy, ["A", "SRV"])
    write("light", "lit", light, ["A", "SRV"])
    with open(d + "/nx.q", "w") as f:
        for k in range(queries):
            f.write("no%07d.service. A\n" % rnd.randrange(10**7))
    return inst

def register(port, inst, conns=8):
    err = []
    def work(part):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for i in part:
            body = json.dumps(dict(address=i["host"], port=i["port"], ttl=86400))
            c.request("PUT", "/v1/services/%(service)s/instances/%(id)s" % i, body, {"Content-Type": "application/json"})
            r = c.getresponse()
            r.read()
            if r.status != 201:
                err.append((r.status, i["id"]))
                return
    ts = [threading.Thread(target=work, args=(inst[k::conns],)) for k in range(conns)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    if err:
        raise SystemExit("registration failed: %s" % err[:3])

def write_zone(port, path):
    """The zone as the API lists it: what a transfer of it would have."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    def get(p):
        c.request("GET", p)
        r = c.getresponse()
        return json.loads(r.read())
    with open(path, "w") as f:
        f.write("$ORIGIN service.\n$TTL 30\n@ IN SOA ns hostmaster 1 30 10 300 1\n@ IN NS ns.invalid.\n")  # outside, so that nobody adds glue to every answer
        for s in get("/v1/services")["services"]:
            for i in get("/v1/services/" + s["name"])["instances"]:
                i["address"] = i["addresses"][0]
                f.write("%(service)s IN A %(address)s\n%(service)s IN SRV %(priority)d %(weight)d %(port)d %(dns_name)s\n%(dns_name)s IN A %(address)s\n" % i)

def wait_for(f, secs=60):
    end = time.time() + secs
    while True:
        try:
            return f()
        except Exception:
            if time.time() > end:
                raise
            time.sleep(0.2)

# ---- one measurement ----
def measure(a, srv, work):
    qf = os.path.join(a.data, work + ".q")
    pids = srv.pids()
    p = subprocess.Popen(["taskset", "-c", str(a.gencpu), a.dnsload, "-p", str(srv.port), "-d", qf, "-l", str(a.secs),
                          "-c", str(a.socks), "-w", str(a.window), "-e", str(a.edns), "-Q", str(a.rate)]
                         + (["-E"] if srv.name == "echo" else []) + (["-T"] if a.tcp else []) + (["-S"] if a.sleepy else []),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if line.startswith("START"):
            u0, s0, _ = cpu_rss(pids)
            g0, b0 = cpu_rss([p.pid]), busy()
        elif line.startswith("STOP"):
            u1, s1, rss = cpu_rss(pids)
            g1 = cpu_rss([p.pid])
            foreign = busy() - b0 - (g1[0] + g1[1] - g0[0] - g0[1])
        else:
            sys.stderr.write(line)
    r = json.loads(p.stdout.read())
    p.wait()
    r.update(user=u1 - u0, sys=s1 - s0, rss=rss, util=(u1 - u0 + s1 - s0) / r["secs"])
    r["foreign"] = (foreign - r["user"] - r["sys"]) / r["secs"]
    n = r["answered"] or 1
    r["cpu_us"], r["user_us"], r["sys_us"] = 1e6 * (r["user"] + r["sys"]) / n, 1e6 * r["user"] / n, 1e6 * r["sys"] / n
    return r

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--roster", required=True, help="the binary")
    p.add_argument("--peers", default="nsd,knot,bind,echo")
    p.add_argument("--add", action="append", default=[], metavar="NAME=COMMAND")
    p.add_argument("--suite", default="heavy,light,nx,heavy/edns0,nx/edns0,heavy/tcp,light/tcp,heavy@5000,heavy@20000,heavy@60000")
    p.add_argument("--heavy", type=int, default=1000, help="services of --per instances")
    p.add_argument("--per", type=int, default=10)
    p.add_argument("--light", type=int, default=1000, help="services of 1 to 3 instances")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--secs", type=float, default=1.5)
    p.add_argument("--socks", type=int, default=8)
    p.add_argument("--window", type=int, default=16)
    p.add_argument("--cpu", default="0")
    p.add_argument("--gencpu", default="1")
    p.add_argument("--sleepy", action="store_true", help="the generator sleeps between paced queries, and so leaves its CPU to others")
    p.add_argument("--threads", type=int, default=1, help="worker threads of nsd, knot and bind")
    p.add_argument("--port", type=int, default=15300)
    p.add_argument("--foreign", type=float, default=0.06, help="CPUs that other processes may use during a measurement")
    p.add_argument("--retries", type=int, default=8)
    p.add_argument("--keeplog", action="store_true")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped
    tmp = tempfile.mkdtemp(prefix="dnsbench.")
    a.data, a.dnsload = tmp + "/data", tmp + "/dnsload"
    os.mkdir(a.data)
    for c in ("dnsload", "echo"):
        subprocess.check_call(["cc", "-O2", "-o", "%s/%s" % (tmp, c), "%s/%s.c" % (HERE, c)])
    PATHS.update(roster=os.path.abspath(a.roster), echo=tmp + "/echo")
    inst = generate(a.data, a.heavy, a.per, a.light, 100000)
    services = {}
    for i in inst:
        services.setdefault("%(service)s.service." % i, []).append(i)
    rnd = random.Random(7)
    heavy = [n for n in services if n.startswith("svc")]
    light = [n for n in services if n.startswith("lit")]
    sample = rnd.sample(heavy, min(20, len(heavy))) + light[:9]
    servers = []
    def start(name, cmd):
        k = len(servers)
        s = Server(name, cmd, "%s/%d" % (tmp, k), a.port + 2 * k, a.port + 2 * k + 1, files=FILES.get(name, {}),
                   bin=PATHS.get(name, ""), data=a.data, threads=a.threads, cpu=a.cpu, keeplog=a.keeplog)
        servers.append(s)
        return s
    try:
        ours = start("roster", CMDS["roster"])
        wait_for(lambda: socket.create_connection(("127.0.0.1", ours.http), 1).close())
        t = time.time()
        register(ours.http, inst)
        print("# %d registrations over HTTP in %.1f s" % (len(inst), time.time() - t))
        write_zone(ours.http, a.data + "/zone.db")
        for name in filter(None, a.peers.split(",")):
            start(name, CMDS[name])
        for x in a.add:
            start(*x.split("=", 1))
        for s in servers:
            if s.name != "echo":
                sizes = wait_for(lambda: check(s, services, sample))
                print("# %-8s ok; octets(answer/authority/additional): %s" % (s.name, " ".join("%s=%s" % x for x in sizes.items())), flush=True)
        print("# %d sockets x %d outstanding, %d rounds x %g s, servers on CPU %s, generator on CPU %s" % (
            a.socks, a.window, a.rounds, a.secs, a.cpu, a.gencpu))
        for run in a.suite.split(","):
            work, _, rate = run.partition("@")
            work, _, how = work.partition("/")
            a.rate, a.edns, a.tcp = float(rate or 0), 0 if how == "edns0" else 1232, how == "tcp"
            redone = dirty = 0
            these = [s for s in servers if s.name != "echo" or not a.tcp]
            res = {s.name: [] for s in these}
            for r in range(a.rounds):
                for s in these:
                    for attempt in range(a.retries + 1):
                        wait_quiet(a, s.pids())
                        m = measure(a, s, work)
                        if m["foreign"] <= a.foreign:
                            break
                    redone += attempt
                    dirty += m["foreign"] > a.foreign
                    res[s.name].append(m)
            print("\n## %s (%d measurements repeated because other processes used CPU, %d kept in spite of that)" % (run, redone, dirty))
            print("| server | answered/s | CPU us/q | user | sys | roster's / its | server CPU | octets | ans/q | lost | TC | p50 us | p99 us | MiB |")
            print("|---|" + "---:|" * 13)
            for s in these:
                m = lambda k: statistics.median(x[k] for x in res[s.name])
                ratio = statistics.median(x["cpu_us"] / (y["cpu_us"] or 1) for x, y in zip(res["roster"], res[s.name]))  # same round: same noise
                print("| %s | %.0f | %.2f | %.2f | %.2f | %.2f | %.0f%% | %.0f | %.1f | %d | %d | %d | %d | %.0f |" % (
                    s.name, m("qps"), m("cpu_us"), m("user_us"), m("sys_us"), ratio, 100 * m("util"), m("bytes"), m("an"),
                    m("lost"), m("tc"), m("p50_us"), m("p99_us"), m("rss")), flush=True)
    finally:
        for s in servers[::-1]:
            s.stop()
        if not a.keeplog:
            shutil.rmtree(tmp, ignore_errors=True)

if __name__ == "__main__":
    main()
