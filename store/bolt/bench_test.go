package bolt_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/rosterdns/roster/store"
	"github.com/rosterdns/roster/store/bolt"
	"github.com/rosterdns/roster/store/storetest"
)

// filledFile makes a file with that many instances, ten to a service, and returns
// its path.
func filledFile(b *testing.B, instances int) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "roster.db")
	s, err := bolt.Open(path, bolt.Config{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Start(b.Context(), func(*store.Instance) {}, func([]store.Event) {}); err != nil {
		b.Fatal(err)
	}
	for k := 0; k < instances; {
		var events []store.Event
		for ; k < instances && len(events) < 10_000; k++ {
			events = append(events, store.Event{Kind: store.Registered, After: instance(b, k/10, fmt.Sprintf("i%07d", k))})
		}
		if err := s.Commit(b.Context(), events); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	return path
}

func instance(b *testing.B, service int, id string) *store.Instance {
	b.Helper()
	i := storetest.Instance(fmt.Sprintf("svc%06d", service), id)
	i.TTL = store.MaxTTL
	if err := i.Normalize(); err != nil {
		b.Fatal(err)
	}
	return i
}

// BenchmarkRegister has so many writers register one new instance after the
// other, each durable before the next, and in turn with that has them put the
// same octets through a bare goroutine that commits to bbolt all that waits:
// what the file can take. x-bare is how many times as many registrations a
// second that is (the target is 0.8 at least), cpu-us what one costs.
func BenchmarkRegister(b *testing.B) {
	for _, instances := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprint(instances), func(b *testing.B) {
			path := filledFile(b, instances)
			for _, writers := range []int{1, 64, 512} {
				b.Run(fmt.Sprint(writers), func(b *testing.B) { benchmarkRegister(b, path, writers) })
			}
		})
	}
}

func benchmarkRegister(b *testing.B, path string, writers int) {
	b.Helper()
	mine, theirs := filepath.Join(b.TempDir(), "roster.db"), filepath.Join(b.TempDir(), "bare.db")
	for _, to := range []string{mine, theirs} {
		copyFile(b, to, path)
	}
	backend, err := bolt.Open(mine, bolt.Config{})
	if err != nil {
		b.Fatal(err)
	}
	r, err := store.Open(b.Context(), backend, store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	other := openBare(b, theirs)
	defer other.close(b)
	each := max(1000/writers, 4)
	var ours, bare spent
	round := 0
	for b.Loop() {
		list := make([]*store.Instance, writers*each)
		for k := range list {
			list[k] = instance(b, rand.IntN(1_000_000), fmt.Sprintf("new%d-%d", round, k))
		}
		round++
		bare.run(writers, list, func(i *store.Instance) {
			if err := other.put(store.RecordKey(i.Service, i.ID), store.AppendRecord(nil, i)); err != nil {
				b.Error(err)
			}
		})
		ours.run(writers, list, func(i *store.Instance) {
			if _, err := r.Register(b.Context(), i, true); err != nil {
				b.Error(err)
			}
		})
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours.rate(), "reg/s")
	b.ReportMetric(bare.rate(), "bare/s")
	b.ReportMetric(ours.rate()/bare.rate(), "x-bare")
	b.ReportMetric(ours.cpuEach(), "cpu-us")
	b.ReportMetric(bare.cpuEach(), "bare-cpu-us")
}

// spent is the time that registrations took, and the processors' time.
type spent struct {
	n         int
	wall, cpu time.Duration
}

// run has the writers share the list.
func (s *spent) run(writers int, list []*store.Instance, write func(*store.Instance)) {
	begin, before := time.Now(), cpuTime()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for k := w; k < len(list); k += writers {
				write(list[k])
			}
		})
	}
	wg.Wait()
	s.n += len(list)
	s.wall += time.Since(begin)
	s.cpu += cpuTime() - before
}

func (s *spent) rate() float64    { return float64(s.n) / s.wall.Seconds() }
func (s *spent) cpuEach() float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / float64(s.n) }

// cpuTime returns the processors' time that this process has had.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareStore is a goroutine that commits to bbolt, and nothing else.
type bareStore struct {
	db    *bbolt.DB
	queue chan barePut
	done  chan struct{}
}

type barePut struct {
	key, value []byte
	result     chan error
}

func openBare(b *testing.B, path string) *bareStore {
	b.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	s := &bareStore{db, make(chan barePut, 1024), make(chan struct{})}
	go s.run()
	return s
}

func (s *bareStore) put(key, value []byte) error {
	p := barePut{key, value, make(chan error, 1)}
	s.queue <- p
	return <-p.result
}

func (s *bareStore) run() {
	defer close(s.done)
	for p := range s.queue {
		batch := []barePut{p}
		for more := true; more; {
			select {
			case p, ok := <-s.queue:
				if more = ok; ok {
					batch = append(batch, p)
				}
			default:
				more = false
			}
		}
		err := s.db.Update(func(tx *bbolt.Tx) error {
			for _, p := range batch {
				if err := tx.Bucket([]byte("instances")).Put(p.key, p.value); err != nil {
					return err
				}
			}
			return tx.Bucket([]byte("meta")).Put([]byte("state"), make([]byte, 21))
		})
		for _, p := range batch {
			p.result <- err
		}
	}
}

func (s *bareStore) close(b *testing.B) {
	b.Helper()
	close(s.queue)
	<-s.done
	if err := s.db.Close(); err != nil {
		b.Error(err)
	}
}

func copyFile(b *testing.B, to, from string) {
	b.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRestart opens the file and makes a registry of it. read-ms is to
// read the file and do nothing with it, check-ms to read and check it, every
// page and every record, ns/op all until the registry can be asked.
func BenchmarkRestart(b *testing.B) {
	for _, instances := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(instances), func(b *testing.B) {
			path := filledFile(b, instances)
			var reading, checking time.Duration
			for b.Loop() {
				b.StopTimer()
				reading += readFile(b, path)
				b.StartTimer()
				begin := time.Now()
				s, err := bolt.Open(path, bolt.Config{})
				if err != nil {
					b.Fatal(err)
				}
				checking += time.Since(begin)
				r, err := store.Open(context.Background(), s, store.Config{})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if r.Len() != instances {
					b.Fatalf("%d instances came back, of %d", r.Len(), instances)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(reading.Seconds()*1e3/float64(b.N), "read-ms")
			b.ReportMetric(checking.Seconds()*1e3/float64(b.N), "check-ms")
		})
	}
}

func readFile(b *testing.B, path string) time.Duration {
	b.Helper()
	begin := time.Now()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{f}); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}
