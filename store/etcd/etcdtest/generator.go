package etcdtest

import (
	"fmt"
	"math/rand/v2"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// generator makes transactions on a few keys, so that most meet something.
type generator struct {
	*rand.Rand
	revision int64 // of the last change
}

// transaction is one as clientv3 takes it.
type transaction struct {
	conditions []clientv3.Cmp
	then, els  []clientv3.Op
	words      []string // what it is, for people
}

func (t *transaction) String() string { return strings.Join(t.words, ", ") }

func (g *generator) key() string { return fmt.Sprintf("k%d", g.IntN(8)) }

// chance is true once in n times.
func (g *generator) chance(n int) bool { return g.IntN(n) == 0 }

func (g *generator) transaction() *transaction {
	t := &transaction{}
	for range g.IntN(3) {
		t.conditions = append(t.conditions, g.condition(t))
	}
	t.words = append(t.words, "then")
	for range g.IntN(5) {
		t.then = append(t.then, g.op(t))
	}
	t.words = append(t.words, "else")
	for range g.IntN(4) {
		t.els = append(t.els, g.op(t))
	}
	return t
}

func (g *generator) condition(t *transaction) clientv3.Cmp {
	key := g.key()
	result := []string{"=", "!=", ">", "<"}[g.IntN(4)]
	near := g.revision - int64(g.IntN(12))
	var c clientv3.Cmp
	switch what := g.IntN(4); what {
	case 0:
		n := g.IntN(3)
		t.words = append(t.words, fmt.Sprintf("version %s %s %d", key, result, n))
		c = clientv3.Compare(clientv3.Version(key), result, n)
	case 1:
		if g.chance(2) {
			near = 0
		}
		t.words = append(t.words, fmt.Sprintf("create %s %s %d", key, result, near))
		c = clientv3.Compare(clientv3.CreateRevision(key), result, near)
	case 2:
		t.words = append(t.words, fmt.Sprintf("mod %s %s %d", key, result, near))
		c = clientv3.Compare(clientv3.ModRevision(key), result, near)
	default:
		v := fmt.Sprint(g.IntN(4))
		t.words = append(t.words, fmt.Sprintf("value %s %s %s", key, result, v))
		c = clientv3.Compare(clientv3.Value(key), result, v)
	}
	if g.chance(4) {
		end := g.key()
		t.words = append(t.words, "of all up to "+end)
		c = c.WithRange(end)
	}
	return c
}

func (g *generator) op(t *transaction) clientv3.Op {
	key := g.key()
	var opts []clientv3.OpOption
	words := key
	if g.chance(2) {
		words += " with previous"
		opts = append(opts, clientv3.WithPrevKV())
	}
	switch g.IntN(6) {
	case 0, 1, 2:
		v := fmt.Sprint(g.IntN(4))
		t.words = append(t.words, "put "+words+"="+v)
		return clientv3.OpPut(key, v, opts...)
	case 3:
		if g.chance(3) {
			words += " and after"
			opts = append(opts, clientv3.WithRange(fmt.Sprintf("k%d", g.IntN(10))))
		}
		t.words = append(t.words, "delete "+words)
		return clientv3.OpDelete(key, opts...)
	case 4:
		t.words = append(t.words, "get "+key)
		return clientv3.OpGet(key)
	}
	var get []clientv3.OpOption
	for _, o := range []struct {
		what string
		opt  clientv3.OpOption
	}{
		{"limit 2", clientv3.WithLimit(2)},
		{"keys only", clientv3.WithKeysOnly()},
		{"descending", clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)},
		{"5 revisions ago", clientv3.WithRev(max(1, g.revision-5))},
		{"newer", clientv3.WithMinModRev(g.revision - 10)},
	} {
		if g.chance(3) {
			words += ", " + o.what
			get = append(get, o.opt)
		}
	}
	t.words = append(t.words, "get all from "+words)
	return clientv3.OpGet(key, append(get, clientv3.WithFromKey())...)
}
