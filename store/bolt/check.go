package bolt

import (
	"fmt"
	"os"

	"github.com/rosterdns/roster/store"
)

// Summary is what is in a file.
type Summary struct {
	Instances int
	Services  int
	Revision  store.Revision
	Size      int64 // of the file, in octets
	Used      int64 // of these, what holds something
}

// Check reads the whole file at path and checks every page that is in use,
// every checksum and all numbers, as [Open] does. It changes nothing. No
// server may have the file open.
func Check(path string) (Summary, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Summary{}, fmt.Errorf("open store: %w", err)
	}
	found, err := load(path)
	if err != nil {
		return Summary{}, err
	}
	services := map[string]bool{}
	for _, i := range found.instances {
		services[i.Service] = true
	}
	return Summary{len(found.instances), len(services), found.revision, info.Size(), found.used}, nil
}
