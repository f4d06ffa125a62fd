package bolt

import "bytes"

// AppendStateVersion returns a valid state record of another format version.
func AppendStateVersion(version byte) []byte {
	b := appendState(nil, 1, 1)
	b[0] = version
	return append(b[:len(b)-4], appendSum(b[:len(b)-4])...)
}

func appendSum(b []byte) []byte {
	sum := checksum(b)
	return []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}
}

// Break makes the store's file unable to grow, as on a full disk, until fix is
// called.
func Break(s *Store) (fix func()) {
	grow := s.db.MaxSize
	s.db.MaxSize = 1
	return func() { s.db.MaxSize = grow }
}

// Read reads a file's octets and returns how many instances they hold.
func Read(b []byte) (int, error) {
	found, err := read(bytes.NewReader(b), int64(len(b)))
	return len(found.instances), err
}
