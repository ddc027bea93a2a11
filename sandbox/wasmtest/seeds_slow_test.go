//go:build slow

package wasmtest_test

import "testing"

func TestModesAgreeLong(t *testing.T) { modesAgree(t, moreSeeds) }

func TestRewrittenMeansTheSameLong(t *testing.T) { sameMeanings(t, moreSeeds) }

func TestLimitsEndRunsAtOnePointLong(t *testing.T) { sameEnds(t, moreSeeds) }
