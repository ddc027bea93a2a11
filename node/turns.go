package node

import (
	"context"
	"slices"
	"sync"
)

// maxRemembered bounds the tenants whose last turn is remembered. A cluster has
// far fewer; a control plane that invents more loses the order of some turns.
const maxRemembered = 4096

// turns bounds how much happens at a time and shares it between tenants: what
// becomes free goes to the tenant that has waited longest since its last turn,
// and within a tenant to who came first. So tenants with something waiting go
// round, and one that comes late is next, however much others have brought.
type turns struct {
	most int // turns that are held at a time
	each int // of them by one tenant

	mu    sync.Mutex
	total int                // guarded by mu: turns held
	held  map[string]int     // guarded by mu: by each tenant that holds some
	lines map[string][]*turn // guarded by mu: who waits, of each tenant that waits
	order []string           // guarded by mu: the tenants of lines, as they came
	count uint64             // guarded by mu: turns granted so far
	last  map[string]uint64  // guarded by mu: count at each tenant's last turn; none is 0
}

// A turn is one that was asked for.
type turn struct {
	tenant  string
	granted chan struct{} // closed under mu
	left    bool          // guarded by mu of its turns: it is not waited for any more
}

func newTurns(most, each int) *turns {
	return &turns{most: most, each: max(each, 1), held: make(map[string]int), lines: make(map[string][]*turn), last: make(map[string]uint64)}
}

// ask stands in line for a tenant: last, or in front to go on with what had its
// turn before. The caller calls wait.
func (s *turns) ask(tenant string, inFront bool) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &turn{tenant: tenant, granted: make(chan struct{})}
	line, waits := s.lines[tenant]
	if !waits {
		s.order = append(s.order, tenant)
	}
	if inFront {
		line = slices.Insert(line, 0, t)
	} else {
		line = append(line, t)
	}
	s.lines[tenant] = line
	s.grant()
	return t
}

// wait returns when t is held; false, without it, when ctx has ended.
func (s *turns) wait(ctx context.Context, t *turn) bool {
	select {
	case <-t.granted:
	case <-ctx.Done():
	}
	if ctx.Err() == nil {
		return true
	}
	s.mu.Lock()
	t.left = true
	s.mu.Unlock()
	select {
	case <-t.granted: // of two cases that are ready any may be taken
		s.release(t.tenant)
	default:
	}
	return false
}

func (s *turns) acquire(ctx context.Context, tenant string) bool {
	return s.wait(ctx, s.ask(tenant, false))
}

// release gives back a turn that is held for a tenant.
func (s *turns) release(tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.held[tenant]--; s.held[tenant] == 0 {
		delete(s.held, tenant)
	}
	s.grant()
}

// grant hands out what is free. The caller holds mu.
func (s *turns) grant() {
	for s.total < s.most {
		tenant, ok := s.longest()
		if !ok {
			return
		}
		t := s.first(tenant)
		if t.left {
			continue
		}
		if len(s.last) >= maxRemembered {
			clear(s.last)
		}
		s.count++
		s.last[tenant] = s.count
		s.total++
		s.held[tenant]++
		close(t.granted)
	}
}

// longest is the tenant that has waited longest since its last turn, of those
// that wait and have not their share. The caller holds mu.
func (s *turns) longest() (tenant string, ok bool) {
	for _, next := range s.order {
		if s.held[next] < s.each && (!ok || s.last[next] < s.last[tenant]) {
			tenant, ok = next, true
		}
	}
	return tenant, ok
}

// first takes the first out of a tenant's line. The caller holds mu.
func (s *turns) first(tenant string) *turn {
	line := s.lines[tenant]
	t := line[0]
	line[0] = nil
	if s.lines[tenant] = line[1:]; len(line) == 1 {
		delete(s.lines, tenant)
		s.order = slices.DeleteFunc(s.order, func(other string) bool { return other == tenant })
	}
	return t
}
