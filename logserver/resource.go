package logserver

import (
	"context"
	"errors"
	"fmt"
)

// Keys lists the keys of the log: those that sign, then the retired ones.
func (l *Log) Keys() []KeyInfo { return l.keys.Load().vkeys() }

// Resource returns what ReadHandler serves at a path of c2sp.org/tlog-tiles:
// "checkpoint", or a tile or entry bundle of a tree up to the last signed one.
// Everything else, and more than limit bytes, is ErrNotFound. The bytes must not
// be changed. Its shape is that of a reader of logs, tiles.Fetch of package
// github.com/tallystick/tallystick/verifier/tiles, so that a log in this process
// can be read like one far away.
func (l *Log) Resource(_ context.Context, path string, limit int64) (b []byte, err error) {
	p, ok := parseTilePath(path)
	switch {
	case path == "checkpoint":
		b = l.Published().Note
	case !ok || !p.within(l.servable()):
	case p.entries:
		b, err = l.Bundle(p.number, p.width)
	default:
		b, err = l.Tile(p.level, p.number, p.width)
	}
	if err == nil && (b == nil || int64(len(b)) > limit) {
		err = fmt.Errorf("%q: %w", path, ErrNotFound)
	}
	return b, err
}

// Resources returns a reader, as Log.Resource is one, of the published
// checkpoint and the stored tree of a log that is not running. ErrNotFound means
// that the log has published nothing.
func (s *Store) Resources() (func(ctx context.Context, path string, limit int64) ([]byte, error), error) {
	published, err := s.store.get(metaPublished)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("published checkpoint of %q: %w", s.Origin(), err)
	}
	if err != nil {
		return nil, err
	}
	tree, err := s.store.snapshot()
	if err != nil {
		return nil, err
	}
	return func(_ context.Context, path string, limit int64) (b []byte, err error) {
		p, ok := parseTilePath(path)
		switch {
		case path == "checkpoint":
			b = published
		case !ok || !p.within(tree.size):
		case p.entries:
			b, err = tree.bundleBytes(p.number, p.width)
		default:
			b, err = tree.tile(p.level, p.number, p.width)
		}
		if err == nil && (b == nil || int64(len(b)) > limit) {
			err = fmt.Errorf("%q: %w", path, ErrNotFound)
		}
		return b, err
	}, nil
}
