//go:build slow

package main

import "testing"

func TestEpochOrderLong(t *testing.T) { epochOrder(t, 1) }
