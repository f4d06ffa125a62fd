package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Member is a server of etcd.
type Member struct {
	Name string
	URLs []string // where clients reach it
}

// Members asks etcd who its members are, sorted by name.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	c, ok := s.client.(clientv3.Cluster)
	if !ok {
		return nil, errors.New("the client does not ask for members")
	}
	resp, err := c.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask etcd at %s for its members: %w", s.where, err)
	}
	var members []Member
	for _, m := range resp.Members {
		members = append(members, Member{m.Name, m.ClientURLs})
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return members, nil
}

// Servers returns the names of the other servers that are up, sorted: those that
// were heard of lately, or all where this one is cut off and may not have heard.
func (s *Store) Servers() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.servers {
		if !s.isGoing() || s.replica.Age()-p.ticked <= aloneTime {
			names = append(names, p.name)
		}
	}
	slices.Sort(names)
	return names
}
