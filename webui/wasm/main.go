//go:build js && wasm

// Command wasm is the web page's verifier: package inspect, compiled for the
// browser and run in a worker of the page. It defines one global object,
// tallystick, whose functions take Uint8Arrays and strings and return JSON. It
// touches nothing else: no network, no storage, no document.
package main

import (
	"encoding/json"
	"fmt"
	"syscall/js"
	"time"

	"github.com/tallystick/tallystick/webui/inspect"
)

func main() {
	js.Global().Set("tallystick", js.ValueOf(map[string]any{
		"summarize": call(func(args []js.Value) (any, error) {
			return inspect.Summarize(trustOf(args[0]))
		}),
		"bundle": call(func(args []js.Value) (any, error) {
			return inspect.Bundle(bytesOf(args[0]), trustOf(args[1]), args[2].String()), nil
		}),
		"root": call(func(args []js.Value) (any, error) {
			return inspect.Root(claimOf(args[0]), trustOf(args[1]), time.UnixMilli(int64(args[2].Float()))), nil
		}),
	}))
	select {} // the functions are called for as long as the worker lives
}

// call makes a JavaScript function that returns {"value": …} or {"error": "…"}
// as JSON. A panic, of arguments of the wrong type for one, is an error too:
// it must not end the program that later calls need.
func call(f func(args []js.Value) (any, error)) js.Func {
	return js.FuncOf(func(_ js.Value, args []js.Value) (result any) {
		defer func() {
			if fault := recover(); fault != nil {
				result = encode(nil, fmt.Errorf("internal fault: %v", fault))
			}
		}()
		return encode(f(args))
	})
}

func encode(value any, err error) string {
	out := struct {
		Value any    `json:"value,omitempty"`
		Error string `json:"error,omitempty"`
	}{Value: value}
	if err != nil {
		out.Value, out.Error = nil, err.Error()
	}
	data, err := json.Marshal(out)
	if err != nil {
		return `{"error":"internal fault: result has no JSON"}`
	}
	return string(data)
}

func bytesOf(v js.Value) []byte {
	data := make([]byte, v.Get("length").Int())
	js.CopyBytesToGo(data, v)
	return data
}

func trustOf(v js.Value) inspect.Trust {
	return inspect.Trust{
		AuditPolicy:      bytesOf(v.Get("auditPolicy")),
		MembershipPolicy: bytesOf(v.Get("membershipPolicy")),
		Genesis:          bytesOf(v.Get("genesis")),
	}
}

func claimOf(v js.Value) inspect.RootClaim {
	claim := inspect.RootClaim{
		MembershipCheckpoint: bytesOf(v.Get("membershipCheckpoint")),
		AuditCheckpoint:      bytesOf(v.Get("auditCheckpoint")),
		MembershipHash:       v.Get("membershipHash").String(),
		ClusterIdentityHash:  v.Get("clusterIdentityHash").String(),
	}
	changes := v.Get("changes")
	for i := range changes.Length() {
		claim.Changes = append(claim.Changes, bytesOf(changes.Index(i)))
	}
	return claim
}
