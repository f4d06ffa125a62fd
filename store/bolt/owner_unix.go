//go:build unix

package bolt

import (
	"io/fs"
	"os"
	"syscall"
)

// own gives a file the owner of another: root may compact a server's file.
func own(f *os.File, like fs.FileInfo) error {
	stat, ok := like.Sys().(*syscall.Stat_t)
	if !ok || os.Getuid() != 0 {
		return nil
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}
