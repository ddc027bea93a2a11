package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

// Roles of the binary's processes.
const (
	roleSaturate  = "saturate"  // append from many callers
	roleLone      = "lone"      // append from one caller
	roleWritten   = "written"   // append and count the bytes written
	roleInclusion = "inclusion" // make inclusion proofs
	roleVerify    = "verify"    // verify inclusion proofs
	roleEmpty     = "empty"     // serve an empty handler
	roleMemory    = "memory"    // serve tiles from memory
	roleFiles     = "files"     // serve tiles from files
	roleLoad      = "load"      // send requests to a server
)

// runRole does a job and prints its report; servers print where they listen
// instead.
func runRole(ctx context.Context, text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	var r report
	var err error
	switch j.Role {
	case roleSaturate:
		r, err = saturate(ctx, j)
	case roleLone:
		r, err = lone(ctx, j)
	case roleWritten:
		r, err = written(ctx, j)
	case roleInclusion:
		r, err = inclusion(j)
	case roleVerify:
		r, err = verify(j)
	case roleEmpty, roleMemory, roleFiles:
		return serveUntilEOF(j)
	case roleLoad:
		r, err = load(j)
	default:
		err = fmt.Errorf("unknown role %q", j.Role)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
