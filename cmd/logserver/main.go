// Command logserver runs a transparency log of its own.
//
//	logserver init --dir D --origin example.com/log
//	logserver serve --dir D --listen 127.0.0.1:8400 --policy witnesses.policy
//
// See package github.com/tallystick/tallystick/logserver for what it promises and
// for the HTTP endpoints. This program links no cloud's software; logserver-cloud
// is the same with the drivers of buckets.
package main

import (
	"github.com/tallystick/tallystick/cmd/internal/logcmd"
	"github.com/tallystick/tallystick/cmd/internal/wiring"
)

func main() { wiring.Main(logcmd.Root("logserver"), logcmd.Hint) }
