package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// This file is a file system that does as it is told: it fails or tears writes,
// syncs and changes of size, and notes what a power cut could leave of one
// file at any moment. It is a folder of the real one seen through FUSE, so that
// the server under test is the one that people run.

// fault says what becomes of an operation: errno 0, all is well; or it fails
// after so many octets of it have been done.
type fault func(op string, size int) (done int, errno syscall.Errno)

// disk is the file system, mounted at dir.
type disk struct {
	dir string

	mu    sync.Mutex
	fault fault  // guarded by mu; nil: none
	media *media // guarded by mu; nil: nothing is noted
	fails int    // guarded by mu: faults so far
}

// mountDisk mounts one until the test ends.
func mountDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{dir: t.TempDir()}
	root, err := fs.NewLoopbackRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	loopback := root.(*fs.LoopbackNode)
	wrap := &diskNode{LoopbackNode: fs.LoopbackNode{RootData: loopback.RootData}, disk: d}
	loopback.RootData.RootNode = wrap
	server, err := fs.Mount(d.dir, wrap, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faulty"}})
	needsMount(t, err)
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return d
}

// needsMount skips the test where a file system could not be mounted.
func needsMount(t *testing.T, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("ROSTER_REQUIRE_TOOLS") == "1" || !errors.Is(err, syscall.EPERM) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist):
		t.Fatalf("mount a file system for the test (which needs root, and /dev/fuse): %v", err)
	default:
		t.Skipf("a file system cannot be mounted here, which needs root, and /dev/fuse: %v", err)
	}
}

// breakWith has every operation from now on meet the fault; nil mends the disk.
func (d *disk) breakWith(f fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

func (d *disk) faults() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fails
}

// meet returns what becomes of an operation. The caller holds mu.
func (d *disk) meet(op string, size int) (done int, errno syscall.Errno) {
	if d.fault == nil {
		return size, 0
	}
	done, errno = d.fault(op, size)
	if errno == 0 {
		return size, 0
	}
	d.fails++
	return min(done, size), errno
}

// always is the fault of a disk on which these operations fail.
func always(errno syscall.Errno, ops ...string) fault {
	return func(op string, _ int) (int, syscall.Errno) {
		if slices.Contains(ops, op) {
			return 0, errno
		}
		return 0, 0
	}
}

// diskNode is a file or the root folder.
type diskNode struct {
	fs.LoopbackNode
	disk *disk
}

var (
	_ fs.NodeOpener      = (*diskNode)(nil)
	_ fs.NodeCreater     = (*diskNode)(nil)
	_ fs.NodeSetattrer   = (*diskNode)(nil)
	_ fs.NodeWrapChilder = (*diskNode)(nil)
)

// WrapChild implements [fs.NodeWrapChilder].
func (n *diskNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &diskNode{LoopbackNode: fs.LoopbackNode{RootData: ops.(*fs.LoopbackNode).RootData}, disk: n.disk}
}

// Open implements [fs.NodeOpener].
func (n *diskNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, _, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &diskFile{f.(*fs.LoopbackFile), n.disk}, fuse.FOPEN_KEEP_CACHE, 0
}

// Create implements [fs.NodeCreater].
func (n *diskNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	node, f, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return node, &diskFile{f.(*fs.LoopbackFile), n.disk}, 0, 0
}

// Setattr implements [fs.NodeSetattrer].
func (n *diskNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	d := n.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	size, resizes := in.GetSize()
	if resizes {
		if _, errno := d.meet("resize", 0); errno != 0 {
			return errno
		}
	}
	if file, ok := f.(*diskFile); ok {
		f = file.LoopbackFile
	}
	errno := n.LoopbackNode.Setattr(ctx, f, in, out)
	if errno == 0 && resizes && d.media != nil {
		d.media.resize(int64(size))
	}
	return errno
}

// diskFile is an open file.
type diskFile struct {
	*fs.LoopbackFile
	disk *disk
}

var (
	_ fs.FileWriter  = (*diskFile)(nil)
	_ fs.FileFsyncer = (*diskFile)(nil)
)

// PassthroughFd has the kernel not pass us by.
func (f *diskFile) PassthroughFd() (int, bool) { return 0, false }

// Write implements [fs.FileWriter].
func (f *diskFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	done, errno := d.meet("write", len(data))
	if done > 0 {
		if _, err := f.LoopbackFile.Write(ctx, data[:done], off); err != 0 {
			return 0, err
		}
		if d.media != nil {
			d.media.write(off, data[:done])
		}
	}
	if errno != 0 {
		return 0, errno
	}
	return uint32(done), 0
}

// Fsync implements [fs.FileFsyncer].
func (f *diskFile) Fsync(context.Context, uint32) syscall.Errno {
	d := f.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	_, errno := d.meet("sync", 0)
	if d.media != nil {
		d.media.sync(errno == 0)
	}
	return errno
}

// roster starts a server on the disk's file. It does not run in the disk's
// folder: to enter that between fork and exec would need us, who wait for exec.
func (d *disk) roster(t *testing.T) *roster {
	t.Helper()
	return startRoster(t, t.TempDir(), "--store", "bolt:"+d.path())
}

func (d *disk) path() string { return filepath.Join(d.dir, "roster.db") }
