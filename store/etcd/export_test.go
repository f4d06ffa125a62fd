package etcd

// SetID gives a store an identity, before it is opened.
func SetID(s *Store, id string) { s.id = id }
