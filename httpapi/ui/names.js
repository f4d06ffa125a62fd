// The names under which DNS has an instance or a service, and how to ask.

const dns = document.querySelector('meta[name="roster-dns"]').content;

/** zoneOf is the zone, which every instance's name ends in. */
export function zoneOf(i) {
  return i.dns_name.split(".").slice(2).join(".");
}

/** digLine is a command that asks for a name. A server that listens on every
 * address is asked at the one that the page comes from. */
export function digLine(name, type) {
  return ["dig", ...serverArguments(), name, type].join(" ");
}

function serverArguments() {
  const at = dns.lastIndexOf(":");
  if (at < 0) return [];
  let host = dns.slice(0, at).replace(/^\[|\]$/g, "");
  if (host === "0.0.0.0" || host === "::") host = location.hostname.replace(/^\[|\]$/g, "");
  const port = dns.slice(at + 1);
  return [`@${host}`, ...(port === "53" ? [] : ["-p", port])];
}

/** isLabel reports whether a tag can be part of a name. */
const isLabel = (tag) => /^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$/i.test(tag);

/** serviceNames are those of a service: {name, type, what}. */
export function serviceNames(service) {
  const all = [...service.instances.values()];
  if (all.length === 0) return [];
  const zone = zoneOf(all[0]);
  const some = all.slice(0, 2000); // of a very large service what the first ones have
  const names = [{ name: `${service.name}.${zone}`, type: "A", what: "addresses at the best priority" }];
  for (const protocol of ["tcp", "udp"]) {
    if (some.some((i) => i.protocol === protocol && i.port)) {
      names.push({ name: `_${service.name}._${protocol}.${zone}`, type: "SRV", what: "port, priority and weight" });
    }
  }
  for (const port of new Set(some.flatMap((i) => Object.keys(i.ports ?? {})))) {
    names.push({ name: `_${port}._tcp.${service.name}.${zone}`, type: "SRV", what: `the port ${port}` });
  }
  const tags = [...new Set(some.flatMap((i) => i.tags ?? []))].filter(isLabel).sort().slice(0, 8);
  for (const tag of tags) names.push({ name: `${tag}.${service.name}.${zone}`, type: "A", what: `tagged ${tag}` });
  return names;
}

/** instanceNames are those of an instance. */
export function instanceNames(i) {
  const zone = zoneOf(i);
  const family = i.addresses.some((a) => !a.includes(":")) ? "A" : "AAAA";
  const names = [{ name: i.dns_name, type: family, what: "this instance alone" }];
  if (i.port) names.push({ name: `_${i.service}._${i.protocol}.${zone}`, type: "SRV", what: "with all of its service" });
  for (const port of Object.keys(i.ports ?? {})) {
    names.push({ name: `_${port}._tcp.${i.service}.${zone}`, type: "SRV", what: `the port ${port}` });
  }
  for (const tag of (i.tags ?? []).filter(isLabel)) {
    names.push({ name: `${tag.toLowerCase()}.${i.service}.${zone}`, type: family, what: `tagged ${tag}` });
  }
  if (Object.keys(i.meta ?? {}).length > 0) names.push({ name: i.dns_name, type: "TXT", what: "its meta" });
  return names;
}
