// Package controlapi is the API edge of the control plane (docs/architecture.md,
// "API edge"): one HTTP handler that serves the five services of
// proto/tallystick/v1 over Connect, gRPC, gRPC-Web and plain JSON, and beside
// them the public log trees, the genesis and the web page.
//
// # The way of a call
//
// A call passes, in this order: its method is looked up in the table of
// methods.go; its token is verified; its principal's kind is held against the
// table; its quotas are charged; its body is read, within the method's bound;
// the core does the work; the operation is recorded; the answer is sent. From
// the token on, every way to end early, a body that is no message included, is
// an operation too and is recorded like any other. The response writer holds
// back every byte of an operation that has not been recorded, so a handler that
// forgot to record could not answer: see answer.go.
//
// # Trust
//
// Everything up to the verified token comes from strangers: requests are
// bounded in size, time and depth, and are refused if they have members that
// the schema does not know. After it, a principal is trusted for nothing but
// being itself: what it may see is decided here by its kind and its own id,
// and what it may change by the core, from envelopes that it has signed. A
// token may be used any number of times until it expires; one that was stolen
// reads what its principal may read, stores blobs in its namespace, and
// changes nothing else.
//
// Another tenant's identifier takes the same path as one that does not exist:
// the same lookup, the same code and message, the same kind of record.
//
// # Concurrency
//
// A Server is safe for concurrent use. Each call is carried by the goroutine of
// its HTTP request, which alone owns its operation. One more goroutine, the
// collector, batches the records of reads. StopAndWait ends both.
package controlapi
