package store

// Deadlines returns how many leases wait for their end.
func Deadlines(r *Registry) int {
	r.deadlines.mu.Lock()
	defer r.deadlines.mu.Unlock()
	return len(r.deadlines.heap)
}
