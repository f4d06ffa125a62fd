package store

// Renew is [Registry.Heartbeat] without a change, for one of many: names come
// in octets, nothing is allocated, and the answer is only whether such an
// instance is there.
func (r *Registry) Renew(service, id []byte) bool {
	var name, label [maxLabel]byte
	if len(service) > maxLabel {
		return false
	}
	v := r.ServiceBytes(appendFolded(name[:0], service))
	if v == nil {
		return false
	}
	l := id
	if !isHostLabel(id) {
		l = appendDerivedLabel(label[:0], id)
	}
	now := r.Now()
	m, ok := v.ByLabelBytes(l, now)
	return ok && m.ID == string(id) && m.Lease.renew(now)
}

// appendFolded is FoldName for octets.
func appendFolded(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
