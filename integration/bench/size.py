#!/usr/bin/env python3
"""What a large registry takes: memory, restart, the cost of a change, expiry.

For each number of instances, ten to a service, starts roster on a new bolt store and registers them over HTTP in random
order, each durable before its 201. Then, on the same server:

  memory   resident memory: right after that, and settled (heartbeats for a quarter of a minute, then a minute of rest);
           what is the process's own (anonymous) and what are pages of the store's file that the kernel could drop
  cost     CPU time of the server, and latency, for each registration of an instance that was not there, 64 at a time
  restart  from the process's start to its ready line and to the first answer by DNS, with the file in the page cache
           and without (needs root), beside reading the file
  expiry   100,000 further leases (a tenth of the instances, if that is less) that end within the same second: how long
           DNS goes on with them, and what the sweep costs other clients

Everything stays on 127.0.0.1; servers are stopped by pid. The figures are printed as Markdown; --json keeps them for
sizeplot.py.

  size.py --roster bin/roster                          # 1,000 to 1,000,000: a quarter of an hour
  size.py --roster bin/roster --sizes 10000
  size.py --roster bin/roster --rich                   # two addresses, a named port, tags and meta
"""
import argparse, http.client, json, os, random, re, selectors, shutil, signal, socket, statistics, struct, subprocess, tempfile, threading, time, zlib
import bench

class Pipe:
    """Requests on many kept connections, at most `depth` on each that wait for their answer."""
    def __init__(self, port, conns=256):
        self.sel, self.socks = selectors.DefaultSelector(), []
        for _ in range(conns):
            s = socket.create_connection(("127.0.0.1", port))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sel.register(s, selectors.EVENT_READ)
            self.socks.append(s)
    def run(self, requests, depth=8, want=b"HTTP/1.1 201"):
        """Sends all of them and returns how many were answered as wanted."""
        it, waits, good = iter(requests), {}, 0
        def feed(s):
            part = [r for _, r in zip(range(depth), it)]
            if part:
                s.sendall(b"".join(part))
                waits[s] = [len(part), b""]  # answers to come; the end of what has come, where a status line may be cut
        for s in self.socks:
            feed(s)
        while waits:
            for key, _ in self.sel.select():
                s = key.fileobj
                b = s.recv(1 << 17)
                if not b:
                    raise SystemExit("the server closed a connection")
                if s not in waits:
                    continue  # the rest of a body
                w = waits[s]
                w[0] -= (w[1][-8:] + b).count(b"HTTP/1.1 ")
                good += (w[1][-11:] + b).count(want)
                w[1] = (w[1] + b)[-11:]
                if w[0] == 0:
                    del waits[s]
                    feed(s)
        return good
    def close(self):
        for s in self.socks:
            s.close()

def put(i, ttl=86400, rich=False, n=0):
    if rich:
        body = ('{"addresses":["%s","2001:db8::%x"],"port":%d,"ports":{"metrics":9090},"tags":["v2","eu"],"meta":{"build":"%d"},"ttl":%d}'
                % (i["host"], n & 0xffff, i["port"], 1000 + n % 50, ttl)).encode()
    else:
        body = b'{"address":"%s","port":%d,"ttl":%d}' % (i["host"].encode(), i["port"], ttl)
    return (b"PUT /v1/services/%s/instances/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % (i["service"].encode(), i["id"].encode(), len(body))) + body

def delete(i):
    return b"DELETE /v1/services/%s/instances/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (i["service"].encode(), i["id"].encode())

def instance(n, service, prefix="i"):
    return dict(service=service, id="%s%07d" % (prefix, n), host="10.%d.%d.%d" % (n >> 16 & 255, n >> 8 & 255, n & 255), port=20000 + n % 40000)

def memory(pid):
    """MiB: all that is resident, the process's own, pages of files; and the most there ever was."""
    s = open("/proc/%d/status" % pid).read()
    get = lambda k: int(re.search(k + r":\s+(\d+) kB", s).group(1)) / 1024
    return dict(rss=get("VmRSS"), anon=get("RssAnon"), file=get("RssFile"), peak=get("VmHWM"))

def cpu(pid):
    """CPU seconds of the process's threads, to the nanosecond."""
    t = 0
    for d in os.listdir("/proc/%d/task" % pid):
        try:
            t += int(open("/proc/%d/task/%s/schedstat" % (pid, d)).read().split()[0])
        except OSError:
            pass
    return t / 1e9

class Roster:
    def __init__(self, a, path):
        self.a, self.path, self.dns, self.http = a, path, a.port, a.port + 1
        self.start()
    def start(self):
        begin = time.time()
        self.p = subprocess.Popen([os.path.abspath(self.a.roster), "serve", "--dns", "127.0.0.1:%d" % self.dns, "--http", "127.0.0.1:%d" % self.http,
                                   "--store", "bolt:" + self.path, "--metrics", "127.0.0.1:%d" % (self.a.port + 2)], stdout=subprocess.PIPE)
        line = self.p.stdout.readline()
        self.ready = time.time() - begin
        if not line.startswith(b"roster is ready"):
            raise SystemExit("roster did not start: %r" % line)
    def stop(self):
        begin = time.time()
        self.p.terminate()
        try:
            self.p.wait(60)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        return time.time() - begin
    def get(self, path, port=None):
        c = http.client.HTTPConnection("127.0.0.1", port or self.http, timeout=60)
        c.request("GET", path)
        b = c.getresponse().read()
        c.close()
        return b
    def metric(self, name):
        m = re.search(rb"^%s (\S+)" % re.escape(name).encode(), self.get("/metrics", self.a.port + 2), re.M)
        return float(m.group(1)) if m else 0.0
    def expired(self):
        return self.metric('roster_changes_total{kind="expire"}')

def heartbeats(port, inst, size=10000):
    """Renews all, in batches; returns when the first was sent and the last answered."""
    bodies = [json.dumps({"instances": [{"service": i["service"], "id": i["id"]} for i in inst[k:k + size]]}) for k in range(0, len(inst), size)]
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    c.connect()
    begin = time.time()
    for b in bodies:
        c.request("POST", "/v1/heartbeats", b, {"Content-Type": "application/json"})
        r = json.loads(c.getresponse().read())
        if "unknown" in r["results"]:
            raise SystemExit("an instance was unknown to a batch of heartbeats")
    end = time.time()
    c.close()
    return begin, end

# ---- what is measured ----
def fill(a, srv, inst, out):
    out["empty"] = memory(srv.p.pid)
    p = Pipe(srv.http)
    begin, c0 = time.time(), cpu(srv.p.pid)
    if (good := p.run(put(i, rich=a.rich, n=k) for k, i in enumerate(inst))) != len(inst):
        raise SystemExit("%d of %d registrations were refused" % (len(inst) - good, len(inst)))
    out["fill_s"], out["fill_cpu_us"] = time.time() - begin, 1e6 * (cpu(srv.p.pid) - c0) / len(inst)
    p.close()
    print("  registered in %.1f s, %.0f us of CPU each" % (out["fill_s"], out["fill_cpu_us"]), flush=True)

def measure_memory(a, srv, inst, out):
    out["after"] = memory(srv.p.pid)
    print("  after the registrations: %s" % out["after"], flush=True)
    end = time.time() + a.beat
    while time.time() < end:
        part = random.sample(inst, min(len(inst), 100000))
        heartbeats(srv.http, part)
        time.sleep(0.5)
    out["busy"] = memory(srv.p.pid)
    time.sleep(a.rest)
    out["settled"] = memory(srv.p.pid)
    out["heap"] = srv.metric("go_memstats_heap_alloc_bytes") / 1048576
    if (n := srv.metric('roster_instances{status="up"}')) != len(inst):
        raise SystemExit("%d instances are up, of %d" % (n, len(inst)))
    print("  settled: %s" % out["settled"], flush=True)

def measure_cost(a, srv, inst, out):
    pool = 100
    names = sorted({i["service"] for i in inst})
    p = Pipe(srv.http, 64)
    took, used, n = 0.0, 0.0, 0
    for r in range(a.rounds):
        new = [instance(900000 + k, random.choice(names), "new") for k in range(pool)]
        reqs = [put(i, rich=a.rich) for i in new]
        c0, t0 = cpu(srv.p.pid), time.time()
        if p.run(reqs, 1) != pool:
            raise SystemExit("registrations were refused")
        took, used, n = took + time.time() - t0, used + cpu(srv.p.pid) - c0, n + pool
        if p.run([delete(i) for i in new], 1, b"HTTP/1.1 200") != pool:
            raise SystemExit("removals were refused")
    p.close()
    one = Pipe(srv.http, 1)
    lat = []
    for k in range(a.rounds):
        i = instance(900000 + k, random.choice(names), "one")
        t0 = time.time()
        one.run([put(i, rich=a.rich)], 1)
        lat.append(time.time() - t0)
        one.run([delete(i)], 1, b"HTTP/1.1 200")
    one.close()
    out["cost_us"], out["rate"], out["one_ms"] = 1e6 * used / n, n / took, 1e3 * statistics.median(lat)
    print("  a registration: %.0f us of CPU, %.0f a second from 64 clients; one client waits %.2f ms" % (out["cost_us"], out["rate"], out["one_ms"]), flush=True)

def drop_caches():
    try:
        os.sync()
        open("/proc/sys/vm/drop_caches", "w").write("1")
        return True
    except OSError:
        return False

def read_file(path, check=False):
    begin, sum_ = time.time(), 0
    with open(path, "rb", 0) as f:
        while b := f.read(1 << 20):
            if check:
                sum_ = zlib.crc32(b, sum_)
    return time.time() - begin

def measure_restart(a, srv, inst, out):
    i = random.choice(inst)
    out["stop_s"] = srv.stop()
    out["file_mib"] = os.path.getsize(srv.path) / 1048576
    def again(which):
        if which == "cold" and not drop_caches():
            return
        begin = time.time()
        srv.start()
        out["ready_%s_s" % which] = srv.ready
        r = bench.ask(srv.dns, i["id"] + "." + i["service"] + ".service.", 1)
        out["answer_%s_s" % which] = time.time() - begin
        assert [x[3] for x in r["secs"][0]] == [i["host"]], r
    if drop_caches():
        out["read_cold_s"] = read_file(srv.path)
    out["read_warm_s"], out["crc_warm_s"] = read_file(srv.path), read_file(srv.path, True)
    again("warm")
    out["cpu_warm_s"] = cpu(srv.p.pid)
    out["restarted"] = memory(srv.p.pid)
    srv.stop()
    again("cold")
    time.sleep(a.rest)
    out["restarted_settled"] = memory(srv.p.pid)
    print("  file %.0f MiB; ready after %.2f s (cold %.2f s), read alone %.2f s (cold %.2f s); settled: %s" % (
        out["file_mib"], out["ready_warm_s"], out.get("ready_cold_s", 0), out["read_warm_s"], out.get("read_cold_s", 0), out["restarted_settled"]), flush=True)

class Clients:
    """What other clients meet meanwhile: single registrations and heartbeats, one connection each, one after the other."""
    def __init__(self, srv, inst):
        self.lat, self.done, self.srv = {"heartbeat": [], "registration": []}, False, srv
        some = random.sample(inst, min(1000, len(inst)))
        beat = [b"PUT /v1/services/%s/instances/%s/heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % (i["service"].encode(), i["id"].encode()) for i in some]
        change = [put(dict(i, port=1 + k)) for k, i in enumerate(some)]
        self.ts = [threading.Thread(target=self.work, args=x) for x in (("heartbeat", beat, 0.002), ("registration", change, 0.01))]
        [t.start() for t in self.ts]
    def work(self, name, requests, pause):
        s = socket.create_connection(("127.0.0.1", self.srv.http))
        k = 0
        while not self.done:
            t = time.time()
            s.sendall(requests[k % len(requests)])
            if b"HTTP/1.1 200" not in s.recv(1 << 16):
                raise SystemExit("a %s was refused" % name)
            self.lat[name].append((t, time.time() - t))
            k += 1
            time.sleep(pause)
    def stop(self):
        self.done = True
        [t.join() for t in self.ts]
    def between(self, name, t0, t1):
        l = sorted(d for t, d in self.lat[name] if t0 <= t + d and t < t1)
        return dict(n=len(l), p50=1e3 * l[len(l) // 2], p99=1e3 * l[len(l) * 99 // 100], max=1e3 * l[-1])

class Asker:
    """Asks for the addresses of instances over UDP, many at a time, and keeps when an address last came back."""
    def __init__(self, port, inst):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.sock.connect(("127.0.0.1", port))
        self.sock.settimeout(0.5)
        self.q = [struct.pack(">5H", 0x0000, 1, 0, 0, 0) + bench.wire(i["id"] + "." + i["service"] + ".service.") + b"\0\1\0\1" for i in inst]
    def ask(self, k, window):
        """Asks the instances from k on; returns (asked, with an address, when the last of these was asked)."""
        part = self.q[k:k + window]
        sent = []
        for n, q in enumerate(part):
            sent.append(time.time())
            self.sock.send(struct.pack(">H", n) + q)
        seen, last, got = 0, 0.0, 0
        while got < len(part):
            try:
                b = self.sock.recv(4096)
            except socket.timeout:
                break
            got += 1
            if struct.unpack(">H", b[6:8])[0]:
                seen, last = seen + 1, max(last, sent[struct.unpack(">H", b[:2])[0]])
        return got, seen, last

def measure_expiry(a, srv, inst, out):
    count = min(100000, len(inst) // 10)
    ttl = 60  # in which they are registered and renewed, all at once
    names = sorted({i["service"] for i in inst})
    dying = [dict(instance(k, names[k % len(names)], "x"), host="11.%d.%d.%d" % (k >> 16, k >> 8 & 255, k & 255)) for k in range(count)]
    p = Pipe(srv.http)
    if p.run(put(i, ttl=ttl, rich=a.rich) for i in dying) != count:
        raise SystemExit("registrations were refused")
    p.close()
    before = srv.expired()
    first, last = heartbeats(srv.http, dying)
    asker = Asker(srv.dns, dying)
    clients = Clients(srv, inst)
    quiet = time.time()
    time.sleep(max(0, first + ttl - 1 - time.time()))
    end = last + ttl  # all have ended by then; the first ended at first + ttl
    latest, k = 0.0, 0
    while time.time() < end + 0.2:  # alive until then: what was asked, and when the last address came
        _, _, t = asker.ask(k, 64)
        latest, k = max(latest, t), (k + 64) % max(1, count - 64)
    got = seen = stale = 0
    begin = time.time()
    asked_names = random.sample(names, min(1000, len(names), count))
    for name in asked_names:
        stale += sum(x[3].startswith("11.") for x in bench.ask(srv.dns, name + ".service.", 1)["secs"][0])
    for k in range(0, count, 64):
        g, s, _ = asker.ask(k, 64)
        got, seen = got + g, seen + s
    asked = time.time()
    while srv.expired() < before + count:
        time.sleep(0.1)
        if time.time() > end + 120:
            raise SystemExit("the sweep did not end")
    swept = time.time()
    time.sleep(0.5)
    clients.stop()
    out["expiry"] = dict(count=count, spread_ms=1e3 * (last - first), last_address_ms=1e3 * (latest - end), asked=got, still=seen, services=len(asked_names), stale=stale,
                         asked_from_ms=1e3 * (begin - end), asked_to_ms=1e3 * (asked - end), swept_s=swept - first - ttl,
                         quiet={n: clients.between(n, quiet, first + ttl) for n in clients.lat},
                         meanwhile={n: clients.between(n, first + ttl, swept) for n in clients.lat})
    print("  expiry: %s" % json.dumps(out["expiry"]), flush=True)

def one_size(a, n, tmp):
    inst = [instance(k, "svc%06d" % (k // 10)) for k in range(n)]
    order = list(range(n))
    random.Random(n).shuffle(order)
    path, kept = "%s/%d.db" % (tmp, n), a.keep and "%s/%d.db" % (a.keep, n)
    filled = kept and os.path.exists(kept)
    if filled:
        shutil.copy(kept, path)
    srv = Roster(a, path)
    out = {"n": n}
    print("%d instances in %d services" % (n, len({i["service"] for i in inst})), flush=True)
    try:
        if not filled:
            fill(a, srv, [inst[k] for k in order], out)
        for what in a.suite.split(","):
            {"memory": measure_memory, "cost": measure_cost, "restart": measure_restart, "expiry": measure_expiry}[what](a, srv, inst, out)
        srv.stop()
        if kept and not filled:
            shutil.copy(path, kept)
    finally:
        srv.stop()
        os.unlink(path)
    return out

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--roster", required=True, help="the binary")
    p.add_argument("--sizes", default="1000,10000,100000,1000000")
    p.add_argument("--suite", default="memory,cost,restart,expiry")
    p.add_argument("--rich", action="store_true", help="instances with two addresses, a named port, two tags and meta")
    p.add_argument("--rounds", type=int, default=100, help="of 100 registrations each, for their cost")
    p.add_argument("--beat", type=float, default=15, help="seconds of heartbeats before memory is read")
    p.add_argument("--rest", type=float, default=60, help="seconds of rest before memory is read")
    p.add_argument("--port", type=int, default=15700)
    p.add_argument("--dir", help="where the stores are made; default: the system's place for temporary files")
    p.add_argument("--keep", help="a folder where the stores are kept once filled, and taken from the next time; for suites without memory")
    p.add_argument("--json", help="a file that the figures are added to, a line for each size")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: exit(1))  # so that the server is stopped
    with tempfile.TemporaryDirectory(prefix="rostersize.", dir=a.dir) as tmp:
        for n in a.sizes.split(","):
            out = one_size(a, int(n), tmp)
            if a.json:
                with open(a.json, "a") as f:
                    f.write(json.dumps(out) + "\n")

if __name__ == "__main__":
    main()
