package store

// Deadlines returns how many leases wait for their end.
func Deadlines(r *Registry) int {
	r.deadlines.mu.Lock()
	defer r.deadlines.mu.Unlock()
	return len(r.deadlines.heap)
}

// ServicesKept returns how many services the registry keeps a place for.
func ServicesKept(r *Registry) (n int) {
	r.services.all(func(string, *service) bool { n++; return true })
	return n
}
