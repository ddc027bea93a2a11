package direct

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// cutGrace is how long connections that were cut off have to end. One whose request
// is in a commit group ends with that, which may be never: the disk may hang.
const cutGrace = time.Second

// Timeouts are those of the http.Server that gets the other connections.
type Timeouts struct {
	Read  time.Duration // until a new connection has sent something
	Write time.Duration // for an answer
	Idle  time.Duration // until one that has been answered sends something again
}

// Listener answers the appends on its connections, and is the listener of the
// http.Server that serves the others. Its methods are safe for concurrent use.
type Listener struct {
	*Limited
	log      Log
	timeouts Timeouts
	passing  chan net.Conn
	failing  chan error // of the listener
	closed   chan struct{}
	closing  sync.Once

	stopping atomic.Bool
	conns    struct {
		sync.Mutex
		open  map[end]struct{}
		ended sync.WaitGroup // counts those in open
	}
	loops loops
}

// end is this side of a connection, whoever serves it.
type end interface {
	finish() // closes it, when the request that is being answered has been
	cut()    // ends it now, unless a commit group has its request
}

// NewListener returns a listener that appends to log. It accepts nothing before
// Run.
func NewListener(ln *Limited, log Log, t Timeouts) *Listener {
	l := &Listener{
		Limited: ln, log: log, timeouts: t,
		passing: make(chan net.Conn), failing: make(chan error), closed: make(chan struct{}),
	}
	l.conns.open = make(map[end]struct{})
	return l
}

// Run accepts connections until the listener is closed. net/http decides how
// long to wait after an error: the next one is tried when it has taken the last.
func (l *Listener) Run() {
	for {
		conn, err := l.Limited.accept()
		if err != nil {
			select {
			case l.failing <- err:
				continue
			case <-l.closed:
				return
			}
		}
		c := newSoloConn(l, conn)
		if !l.add(c) {
			c.Close()
			return
		}
		go c.serve()
	}
}

// Accept returns the next connection that net/http is to serve.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.passing:
		return conn, nil
	case err := <-l.failing:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close stops accepting. Connections go on.
func (l *Listener) Close() error {
	err := net.ErrClosed
	l.closing.Do(func() {
		close(l.closed)
		err = l.Limited.Close()
	})
	return err
}

// Stop lets requests that have arrived be answered and closes the connections
// that net/http does not have. What is left when ctx ends is cut off, and is the
// error: Stop returns a second later at most. A connection that waits for its
// commit group then ends when the group does, and the loops when the last has.
// Close comes first.
func (l *Listener) Stop(ctx context.Context) error {
	l.each(end.finish)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.conns.ended.Wait()
		l.loops.stop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	l.each(end.cut)
	select {
	case <-done:
	case <-time.After(cutGrace):
	}
	return ctx.Err()
}

func (l *Listener) add(c end) bool {
	l.conns.Lock()
	defer l.conns.Unlock()
	if l.stopping.Load() {
		return false
	}
	l.conns.open[c] = struct{}{}
	l.conns.ended.Add(1)
	return true
}

func (l *Listener) remove(c end) {
	l.conns.Lock()
	defer l.conns.Unlock()
	delete(l.conns.open, c)
	l.conns.ended.Done()
}

// replace has a connection served by another, also while the listener stops.
func (l *Listener) replace(c, by end) {
	l.conns.Lock()
	defer l.conns.Unlock()
	delete(l.conns.open, c)
	l.conns.open[by] = struct{}{}
}

// each calls f for every connection; none is added any more, but what replaces
// one of them asks whether we are stopping.
func (l *Listener) each(f func(end)) {
	l.conns.Lock()
	l.stopping.Store(true)
	open := slices.Collect(maps.Keys(l.conns.open))
	l.conns.Unlock()
	for _, c := range open {
		f(c)
	}
}

func (l *Listener) newAnswerer() answerer { return answerer{log: l.log, stopping: &l.stopping} }
