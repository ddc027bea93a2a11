// Package direct answers the plain appends among the requests of an HTTP server,
// and leaves everything else to net/http. A request for an index or a receipt then
// costs one read, one write and little else: net/http takes as long for its part
// as a log for the whole append. docs/design/028-what-bounds-latency.md and
// docs/design/055-loops-for-appends.md say what it is worth.
//
// # The way of a connection
//
//  1. A [Limited] listener accepts it, or refuses it: there are too many.
//  2. A goroutine of its own reads (soloConn) until there is a whole request that
//     parse knows by heart. Anything else, and a request that is not whole in
//     time, passes the connection to net/http for good, with every byte that was
//     read: [Listener] is the listener of an http.Server, and this is what its
//     Accept returns.
//  3. The log is asked: [Log.Enter] for room, then [Log.Ask]. Once the entry is
//     durable the log tells whoever asked ([Asker]), who makes the answer from
//     the commit group (answerer) and writes it.
//  4. On Linux a connection that has been answered goes on in a loop with others
//     (loop), which has one goroutine that reads and asks, and one that answers:
//     no goroutine is woken for a request, or for its answer.
//  5. From there, whatever is not one whole request by itself, or a client that
//     does not take its answer, brings it back to a goroutine (soloConn) for good.
//  6. [Listener.Stop] has requests that have arrived answered, and ends the rest. It
//     waits for a commit group no longer than its context allows: a disk may hang.
//
// # Ownership
//
// A connection has one owner at a time, who alone reads, writes and closes it: its
// goroutine; in a loop, the goroutine that found something on it, and the commit
// group while its request is in one. There it is nobody's while it is idle.
//
// # Trust
//
// What arrives is strangers' and decided on by strict equality: parse knows one
// spelling of one kind of request, and net/http alone gives a meaning to anything
// unusual. A connection holds at most one buffer of 4 KiB here, besides what
// Log.Enter has allowed, and every wait has a deadline.
package direct
