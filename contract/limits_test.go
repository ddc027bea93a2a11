package contract

import (
	"errors"
	"reflect"
	"testing"
)

func TestDefaultClusterLimitsAreLawful(t *testing.T) {
	if err := DefaultClusterLimits().Validate(); err != nil {
		t.Error(err)
	}
}

// Every figure has a lower and an upper bound of its own.
func TestClusterLimitsBounds(t *testing.T) {
	for i := range reflect.TypeFor[ClusterLimits]().NumField() {
		name := reflect.TypeFor[ClusterLimits]().Field(i).Name
		for _, bad := range []uint64{0, maxInteger + 1} {
			l := DefaultClusterLimits()
			reflect.ValueOf(&l).Elem().Field(i).SetUint(bad)
			if err := l.Validate(); !errors.Is(err, RefusedLimits) {
				t.Errorf("%s = %d: got %v, want %v", name, bad, err, RefusedLimits)
			}
		}
	}
}
